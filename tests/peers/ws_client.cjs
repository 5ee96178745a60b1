// The exchange with `ws` for Node, like the one in tests/peers/exchange.py; and with Node's own
// WebSocket, which it has from version 22 on, or behind a flag from 20.10 on.
//
//     node ws_client.cjs ws://HOST:PORT PID
//
// On the first difference it exits with 1 and a line that names it. NODE_PATH is where `ws` is
// installed.
'use strict';

const assert = require('node:assert/strict');
const { randomBytes } = require('node:crypto');
const { once } = require('node:events');
const WsSocket = require('ws');

const LIMIT = 1 << 20;
const STEP_LIMIT = 30_000;

const TEXTS = [
  'Hello world',
  '',
  'Grüße, 世界, 🦀, \u202eright to left, \0',
  // Lengths around those at which the header of the frame, or of its reply, grows.
  ...[117, 118, 125, 126, 65527, 65528, 65535, 65536].map((length) => 'x'.repeat(length)),
];
const BINARIES = [
  Buffer.alloc(0),
  Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)),
  ...[125, 126, 65535, 65536, LIMIT].map((length) => Buffer.alloc(length, 0xff)),
  // It does not compress, but grows.
  randomBytes(LIMIT),
];
const AGREED = 'permessage-deflate; server_no_context_takeover; client_no_context_takeover';
// What `ws` offers, and what is to be agreed to.
const COMPRESSION = [
  { how: 'uncompressed', options: false, agreed: '' },
  { how: 'compressed as by default', options: true, agreed: AGREED },
  // By default it leaves messages below 1 KiB uncompressed.
  {
    how: 'all compressed, with 10 bits',
    options: { threshold: 0, serverMaxWindowBits: 10, clientMaxWindowBits: 12 },
    agreed: `${AGREED}; server_max_window_bits=10; client_max_window_bits=10`,
  },
];

/** Formats a value for a message; long ones by length and beginning. */
function shown(value) {
  if (Buffer.isBuffer(value)) {
    return `Buffer of ${value.length}: ${value.toString('hex', 0, 20)}`;
  }
  const text = JSON.stringify(value);
  return text.length > 80 ? `string of ${value.length}: ${text.slice(0, 60)}...` : text;
}

function expect(what, actual, expected) {
  const same = Buffer.isBuffer(expected)
    ? Buffer.isBuffer(actual) && actual.equals(expected)
    : actual === expected;
  assert.ok(same, `${what}: got ${shown(actual)}, expected ${shown(expected)}`);
}

/** An open `ws` connection, offering compression as it does by default unless told otherwise. */
async function open(url, subprotocols = [], perMessageDeflate = true) {
  const socket = new WsSocket(url, subprotocols, { perMessageDeflate });
  socket.once('upgrade', ({ headers }) => {
    socket.answer = headers['sec-websocket-extensions'] ?? '';
  });
  // Events must not be lost if nobody is waiting for them yet.
  socket.inbox = [];
  socket.on('message', (data, binary) => {
    socket.inbox.push(binary ? data : data.toString());
    socket.emit('inbox');
  });
  socket.ended = once(socket, 'close').then(([code, reason]) => [code, reason.toString()]);
  await once(socket, 'open');
  return socket;
}

async function receive(socket) {
  while (socket.inbox.length === 0) {
    const closed = socket.ended.then(([code, reason]) => {
      throw new Error(`closed with ${code} ${reason} instead of a message`);
    });
    await Promise.race([once(socket, 'inbox'), closed]);
  }
  return socket.inbox.shift();
}

async function expectEnd(what, socket, code, reason) {
  const [gotCode, gotReason] = await socket.ended;
  expect(`${what}: Close code`, gotCode, code);
  expect(`${what}: Close reason`, gotReason, reason);
}

async function echoes(base, path, prefix, { options, agreed }) {
  const socket = await open(base + path, [], options);
  expect(`${path}: subprotocol when none was offered`, socket.protocol, '');
  expect(`${path}: extensions`, socket.answer, agreed);
  for (const message of [...TEXTS, 'y'.repeat(LIMIT - prefix.length), ...BINARIES]) {
    socket.send(message);
    const reply = typeof message === 'string' ? prefix + message : message;
    expect(`${path}: echo of ${shown(message)}`, await receive(socket), reply);
  }
  // One message in fragments that split a character, with a ping between them.
  const pong = once(socket, 'pong');
  const crab = Buffer.from(`a 🦀 ${'b'.repeat(100_000)}`);
  socket.send(crab.subarray(0, 4), { binary: false, fin: false });
  socket.ping('between');
  socket.send(crab.subarray(4, 5), { fin: false });
  socket.send(crab.subarray(5), { fin: true });
  expect(`${path}: echo of fragments`, await receive(socket), prefix + crab.toString());
  expect(`${path}: pong between fragments`, (await pong)[0].toString(), 'between');
  // Many at once.
  for (let number = 0; number < 1000; number += 1) {
    socket.send(`message ${number}`);
  }
  for (let number = 0; number < 1000; number += 1) {
    expect(`${path}: echo in a burst`, await receive(socket), `${prefix}message ${number}`);
  }
  socket.close();
  // No code was sent, so none comes back, which is reported as 1005.
  await expectEnd(`${path}: answer to an empty Close`, socket, 1005, '');
}

async function pings(base) {
  const socket = await open(`${base}/socket`);
  for (const payload of [Buffer.alloc(0), Buffer.from('ping'), Buffer.alloc(125, 7)]) {
    const pong = once(socket, 'pong');
    socket.ping(payload);
    expect('pong', (await pong)[0], payload);
  }
  // An unsolicited pong is ignored.
  socket.pong('unasked');
  socket.send('after');
  expect('echo after the pings', await receive(socket), 'server: after');
  socket.close(1000);
  await expectEnd('Close after the pings', socket, 1000, '');
}

async function subprotocols(base) {
  const socket = await open(`${base}/socket`, ['chat.v2', 'chat.v1']);
  expect('subprotocol', socket.protocol, 'chat.v2');
  socket.close(1000);
  await expectEnd('Close of a session with a subprotocol', socket, 1000, '');
}

async function clientCloses(base) {
  const closes = [
    [1000, 'done'],
    [1001, 'going away'],
    [1011, 'z'.repeat(123)],
    [1014, 'bad gateway'],
    [3000, 'Grüße'],
    [4999, ''],
  ];
  for (const [code, reason] of closes) {
    const socket = await open(`${base}/socket`);
    socket.close(code, reason);
    await expectEnd(`answer to Close ${code}`, socket, code, reason);
  }
}

async function tooBig(base, { options }) {
  const socket = await open(`${base}/echo`, [], options);
  socket.send(Buffer.alloc(LIMIT + 1));
  const [code, reason] = await socket.ended;
  expect('Close code after a message over the limit', code, 1009);
  assert.match(reason, /max_message_size/, `the reason of 1009 is ${reason}`);
}

/** The platform's WebSocket, with the browsers' interface. */
async function platform(base) {
  const socket = new WebSocket(`${base}/socket`, ['chat']);
  const event = (name) =>
    new Promise((resolve) => socket.addEventListener(name, resolve, { once: true }));
  socket.binaryType = 'arraybuffer';
  const ended = event('close');
  await event('open');
  expect('platform: subprotocol', socket.protocol, 'chat');
  for (const text of TEXTS) {
    const reply = event('message');
    socket.send(text);
    expect(`platform: echo of ${shown(text)}`, (await reply).data, `server: ${text}`);
  }
  for (const binary of BINARIES) {
    const reply = event('message');
    socket.send(binary);
    expect(`platform: echo of ${shown(binary)}`, Buffer.from((await reply).data), binary);
  }
  socket.close(1000, 'done');
  const { code, reason, wasClean } = await ended;
  expect('platform: end', `${code} ${reason} ${wasClean}`, '1000 done true');
}

async function serviceStops(base, pid) {
  const socket = await open(`${base}/socket`);
  socket.send('still here');
  expect('echo before SIGTERM', await receive(socket), 'server: still here');
  process.kill(pid, 'SIGTERM');
  const [code] = await socket.ended;
  expect('Close code after SIGTERM', code, 1001);
}

async function main(base, pid) {
  const steps = {};
  for (const compression of COMPRESSION) {
    const { how } = compression;
    steps[`echoes through /socket, ${how}`] = () =>
      echoes(base, '/socket', 'server: ', compression);
    steps[`echoes through /echo, ${how}`] = () => echoes(base, '/echo', '', compression);
    steps[`a message over the limit, ${how}`] = () => tooBig(base, compression);
  }
  Object.assign(steps, {
    pings: () => pings(base),
    subprotocols: () => subprotocols(base),
    'closes by the client': () => clientCloses(base),
    ...(globalThis.WebSocket && { "Node's own client": () => platform(base) }),
    // Stops the service.
    SIGTERM: () => serviceStops(base, pid),
  });
  for (const [name, step] of Object.entries(steps)) {
    const limit = setTimeout(() => {
      fail(name, new Error(`timed out after ${STEP_LIMIT / 1000} s`));
    }, STEP_LIMIT);
    await step().catch((error) => fail(name, error));
    clearTimeout(limit);
    console.log(`ok: ${name}`);
  }
}

function fail(step, error) {
  console.error(`ws_client.cjs: ${step}: ${error.message}`);
  process.exit(1);
}

main(process.argv[2], Number(process.argv[3]));
