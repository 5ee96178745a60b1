// Uses the service as a user would from a browser's console, in Chromium or Firefox.
//
//     node browser.cjs chrome|firefox EXECUTABLE SCREENSHOT ws://HOST:PORT PID
//
// On the first difference it exits with 1 and a line that names it. NODE_PATH is where puppeteer-core is
// installed, which drives both browsers, each over its own protocol.
'use strict';

const assert = require('node:assert/strict');
const puppeteer = require('puppeteer-core');

const STEP_LIMIT = 30_000;

// Only the page under test may cause traffic, and the sandbox does not work as root.
const FLAGS = {
  chrome: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
  firefox: [],
};

// Both offer compression; this is how they show that it was agreed to.
const EXTENSIONS = {
  chrome: 'permessage-deflate; server_no_context_takeover; client_no_context_takeover',
  firefox: 'permessage-deflate',
};

/**
 * Runs in the page: opens a WebSocket, waits for the echo of each message, closes, and returns what
 * happened. Without `close` the socket stays open, and `window.left` resolves when it ends.
 */
async function session({ path, subprotocols, messages, close }) {
  const socket = new WebSocket(`ws://${location.host}${path}`, subprotocols);
  socket.binaryType = 'arraybuffer';
  const event = (name) =>
    new Promise((resolve, reject) => {
      socket.addEventListener(name, resolve, { once: true });
      // Browsers tell a page no more than this.
      const fail = () => reject(new Error(`error before ${name}`));
      socket.addEventListener('error', fail, { once: true });
    });
  const told = new Promise((resolve) => {
    socket.onclose = ({ code, reason, wasClean }) => resolve({ code, reason, wasClean });
  });
  await event('open');
  const replies = [];
  for (const message of messages) {
    const reply = event('message');
    socket.send(Array.isArray(message) ? new Uint8Array(message) : message);
    const { data } = await reply;
    replies.push(typeof data === 'string' ? data : Array.from(new Uint8Array(data)));
  }
  const result = { replies, protocol: socket.protocol, extensions: socket.extensions };
  if (!close) {
    window.left = told;
    return result;
  }
  socket.close(...close);
  return { ...result, end: await told };
}

const BYTES = Array.from({ length: 256 }, (_, byte) => byte);
const LONG = 'ü'.repeat(100_000);
const LONGEST = 'y'.repeat((1 << 20) - 'server: '.length);
// Numbers from a linear congruential generator do not compress.
let state = 1;
const NOISE = Array.from({ length: 65_536 }, () => {
  state = (Math.imul(state, 1103515245) + 12345) >>> 0;
  return state >>> 24;
});

const STEPS = [
  {
    name: 'Hello world through /socket',
    session: {
      path: '/socket',
      subprotocols: [],
      messages: ['Hello world'],
      close: [1000, 'done'],
    },
    expected: {
      replies: ['server: Hello world'],
      protocol: '',
      end: { code: 1000, reason: 'done', wasClean: true },
    },
  },
  {
    name: 'text and binary through /socket, without a close code',
    session: {
      path: '/socket',
      subprotocols: [],
      messages: ['', 'Grüße 🦀', [], BYTES, LONG, NOISE, LONGEST],
      close: [],
    },
    expected: {
      replies: [
        'server: ',
        'server: Grüße 🦀',
        [],
        BYTES,
        `server: ${LONG}`,
        NOISE,
        `server: ${LONGEST}`,
      ],
      protocol: '',
      end: { code: 1005, reason: '', wasClean: true },
    },
  },
  {
    name: 'an offer of subprotocols through /echo',
    session: {
      path: '/echo',
      subprotocols: ['chat.v2', 'chat.v1'],
      messages: ['Hi', BYTES, NOISE, LONGEST],
      close: [4000],
    },
    expected: {
      replies: ['Hi', BYTES, NOISE, LONGEST],
      protocol: 'chat.v2',
      end: { code: 4000, reason: '', wasClean: true },
    },
  },
];

async function check(page, extensions, pid) {
  for (const { name, session: given, expected } of STEPS) {
    await step(name, async () => {
      assert.deepEqual(await page.evaluate(session, given), { ...expected, extensions });
    });
  }
  await step('SIGTERM to the service', async () => {
    const open = { path: '/socket', subprotocols: [], messages: ['still here'] };
    const { replies } = await page.evaluate(session, open);
    assert.deepEqual(replies, ['server: still here']);
    process.kill(pid, 'SIGTERM');
    const { code, wasClean } = await page.evaluate(() => window.left);
    assert.deepEqual({ code, wasClean }, { code: 1001, wasClean: true });
  });
}

/** Runs one step within its time limit; an error is prefixed with the step's name. */
async function step(name, body) {
  let limit;
  const late = new Promise((_, reject) => {
    limit = setTimeout(() => reject(new Error(`timed out after ${STEP_LIMIT / 1000} s`)), STEP_LIMIT);
  });
  try {
    await Promise.race([body(), late]);
  } catch (error) {
    throw new Error(`${name}: ${error.message}`);
  } finally {
    clearTimeout(limit);
  }
  console.log(`ok: ${name}`);
}

async function main(name, executablePath, screenshot, base, pid) {
  // Each launch uses a fresh profile.
  const browser = await puppeteer.launch({ browser: name, executablePath, args: FLAGS[name] });
  try {
    console.log(`--- ${await browser.version()}`);
    const page = await browser.newPage();
    await step('the page at /', async () => {
      const answer = await page.goto(base.replace(/^ws/, 'http') + '/');
      assert.equal(answer.status(), 200, 'status');
      const shown = await page.evaluate(() => document.body.innerText);
      assert.match(shown, /\/socket/, 'the page must name /socket');
      await page.screenshot({ path: screenshot });
    });
    await check(page, EXTENSIONS[name], pid);
  } finally {
    await browser.close();
  }
}

module.exports = { FLAGS };

if (require.main === module) {
  const [name, executable, screenshot, base, pid] = process.argv.slice(2);
  main(name, executable, screenshot, base, Number(pid)).catch((error) => {
    console.error(`browser.cjs: ${name}: ${error.message}`);
    process.exit(1);
  });
}
