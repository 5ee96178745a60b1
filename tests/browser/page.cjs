// Opens the service's page in Chromium or Firefox, and checks what a person would see there.
//
//     node page.cjs chrome|firefox EXECUTABLE light|dark
//
// Reads one visit per line from stdin, as JSON, and answers each with a line: {"ok": true} or
// {"error": "…"}. page.py starts what the pages are behind. NODE_PATH is where puppeteer-core and axe-core
// are installed.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const readline = require('node:readline');
const axe = require('axe-core');
const puppeteer = require('puppeteer-core');
const { FLAGS } = require('./browser.cjs');

const PATIENCE = 30_000;
// What a browser itself writes about a handshake or a plain request that fails.
const OWN_WORDS = /WebSocket connection to|^Failed to load resource|establish a connection|connection to wss?:.* was interrupted/;

/** Waits until an element's text matches: puppeteer's own waiting evaluates strings, which the page's policy forbids. */
async function until(page, selector, pattern) {
  const text = () => page.$eval(selector, (it) => it.textContent.replaceAll('\u00a0', ' '));
  const matches = (text) => (pattern instanceof RegExp ? pattern.test(text) : text.includes(pattern));
  const end = Date.now() + PATIENCE;
  for (let shown = await text(); !matches(shown); shown = await text()) {
    if (Date.now() > end) assert.fail(`${selector} should have ${pattern}, and has ${shown}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** How many columns of a picture have pixels of this colour, more or less. */
async function columns(browser, picture, colour) {
  const page = await browser.newPage();
  const found = await page.evaluate(
    async (source, [red, green, blue]) => {
      const image = new Image();
      image.src = source;
      await image.decode();
      const canvas = Object.assign(document.createElement('canvas'), { width: image.width, height: image.height });
      const context = canvas.getContext('2d');
      context.drawImage(image, 0, 0);
      const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
      const found = new Set();
      for (let at = 0; at < data.length; at += 4) {
        const distance = Math.abs(data[at] - red) + Math.abs(data[at + 1] - green) + Math.abs(data[at + 2] - blue);
        if (distance < 160) found.add((at / 4) % canvas.width);
      }
      return found.size;
    },
    `data:image/png;base64,${picture}`,
    colour,
  );
  await page.close();
  return found;
}

/** What axe finds wrong. */
async function violations(page) {
  await page.evaluate(axe.source);
  return page.evaluate(async () => {
    const { violations } = await window.axe.run(document);
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(' ')}`);
  });
}

/** The names of all controls, as assistive technology hears them. */
async function controls(page) {
  const tree = await page.accessibility.snapshot({ interestingOnly: false });
  const found = [];
  const walk = (node) => {
    if (['button', 'textbox', 'combobox', 'DisclosureTriangle'].includes(node.role)) found.push(node.name ?? '');
    (node.children ?? []).forEach(walk);
  };
  walk(tree);
  return found;
}

const CHECKS = {
  /** One message a second, and their graph. */
  async graph(page, { browser, scheme }) {
    await until(page, '#figures', / of ([4-9]|\d\d)unanswered/);
    const chart = await page.$('#chart');
    const picture = await chart.screenshot({ encoding: 'base64' });
    const drawn = await columns(browser, picture, scheme === 'dark' ? [130, 180, 247] : [26, 91, 184]);
    // The dot at its end alone has 7.
    assert.ok(drawn > 15, `the graph has ${drawn} columns`);
    assert.match(await page.$eval('#chart', (it) => it.getAttribute('aria-label')), /median .*ms|median .*s/);
  },

  /** Each kind of message comes back, and is found equal. */
  async messages(page) {
    // The graph moves what is below it when it appears.
    await until(page, '#figures', 'median');
    await page.click('#send-text');
    await until(page, '#result', '“Hello world” came back equal in');
    await page.$eval('#text', (it) => (it.value = '<img src=x onerror=alert(1)> Grüße 🦀'));
    await page.click('#send-text');
    await until(page, '#result', '“<img src=x onerror=alert(1)> Grüße 🦀” came back equal');
    assert.equal(await page.$('#entries img, #result img'), null, 'text stays text');
    for (const [index, size] of ['1 KiB', '64 KiB', '1 MiB'].entries()) {
      await page.click(`#sizes button:nth-child(${index + 1})`);
      await until(page, '#result', `${size} came back equal`);
    }
    await CHECKS.burst(page);
    const file = await page.$('#file');
    await file.uploadFile(__filename);
    await until(page, '#result', 'page.cjs came back equal');
    assert.equal(await page.$$eval('#entries tr', (rows) => rows.length > 10), true, 'the log has every frame');
  },

  async burst(page) {
    await page.click('#burst');
    await until(page, '#result', '1,000 messages came back in');
    await until(page, '#result', 'all equal and in order');
  },

  /** A close code that a page may send, and one that it may not. */
  async close(page) {
    const enter = (code) => page.$eval('#code', (it, code) => (it.value = code), code);
    await enter('1002');
    await page.click('#close');
    await until(page, '#result', 'A page may send 1000 and 3000 to 4999');
    await enter('4321');
    await page.click('#close');
    await until(page, '#result', 'The WebSocket was closed: 4321.');
    await until(page, '#state', 'not connected');
    await until(page, '#entries', '4321');
    await page.click('#clear');
    assert.equal(await page.$$eval('#entries tr', (rows) => rows.length), 0);
  },

  /** Everything can be reached with Tab, in the order of the document. */
  async keyboard(page) {
    const visible = await page.$$eval('button:enabled, input, select, summary, [tabindex="0"]', (all) => all.filter((it) => it.checkVisibility() && !it.closest('details:not([open]) > :not(summary)')).length);
    await page.evaluate(() => document.activeElement.blur());
    const places = [];
    for (let count = 0; count < visible; count += 1) {
      await page.keyboard.press('Tab');
      places.push(await page.evaluate(() => [...document.querySelectorAll('*')].indexOf(document.activeElement)));
    }
    assert.deepEqual(places, [...places].sort((one, other) => one - other), 'the order of the document');
    assert.equal(new Set(places).size, visible, 'every control once');
  },

  /** The report is ready to paste. */
  async report(page) {
    await page.evaluate(() => {
      window.copied = new Promise((resolve) => {
        navigator.clipboard.writeText = async (text) => resolve(text);
      });
    });
    await page.click('#report');
    const report = await page.evaluate(() => window.copied);
    for (const part of ['WebSockets work from here.', 'Time: 20', 'WebSocket: ws', 'Handshake: 101 in', 'Client: ', 'Log, newest first:']) {
      assert.ok(report.includes(part), `${part} in ${report}`);
    }
  },

  /** What the server saw is shown. */
  async seen(page) {
    await until(page, '#seen', 'Client');
    await until(page, '#server', 'up ');
    assert.match(await page.$eval('#fields', (it) => it.textContent), /user-agent: /);
  },

  async accessible(page, { name }) {
    assert.deepEqual(await violations(page), []);
    if (name !== 'chrome') return;
    const names = await controls(page);
    assert.ok(names.length > 15, names.join(', '));
    assert.ok(names.every(Boolean), `every control has a name: ${names.join(', ')}`);
  },

  /** Silence can be ended by a message. */
  async alive(page) {
    await page.click('#check');
    await until(page, '#quiet-note', 'Alive after 0:');
    await until(page, '#step-silence', 'survived');
  },

  /** Only Chromium can be told to freeze a page: its timers stop, and what happens meanwhile is told late. */
  async asleep(page, { name }) {
    if (name !== 'chrome') return;
    await until(page, '#step-silence', 'still open');
    await page.evaluate(() => {
      window.sentences = [];
      const sentence = document.getElementById('sentence');
      new MutationObserver(() => window.sentences.push(sentence.textContent)).observe(sentence, { childList: true });
    });
    const session = await page.createCDPSession();
    await session.send('Page.setWebLifecycleState', { state: 'frozen' });
    await new Promise((resolve) => setTimeout(resolve, 8000));
    await session.send('Page.setWebLifecycleState', { state: 'active' });
    await until(page, '#quiet-note', 'This page slept meanwhile: not measured.');
    await until(page, '#step-silence', 'not measured');
    // As long as a cut would take to be found.
    await new Promise((resolve) => setTimeout(resolve, 3000));
    const cuts = await page.evaluate(() => window.sentences.filter((it) => /cut|no answer|nothing has come back/i.test(it)));
    assert.deepEqual(cuts, [], 'nothing is blamed on the path');
  },

  /** The page came from one instance, the WebSocket is one of the other's. */
  async instances(page) {
    await until(page, '#seen', /Instance(one|two)The page came from (one|two): there are several\./);
    const [opened, server] = await page.evaluate(() => [document.querySelector('#seen dd').firstChild.textContent, document.getElementById('server').textContent]);
    assert.ok(server.startsWith(`${opened} · `), server);
  },

  /** What is chosen anew is used for the next message, and a second click opens nothing more. */
  async choices(page) {
    const opened = await watch(page);
    const twice = (id) => page.$eval(id, (it) => [it.click(), it.click()]);
    const send = async () => {
      await page.click('#send-text');
      await until(page, '#result', '“Hello world” came back equal in');
    };
    await twice('#connect');
    await until(page, '#state', 'connected in');
    await send();
    assert.deepEqual(await opened(), ['/socket?']);
    await page.select('#endpoint', '/echo');
    await until(page, '#state', 'not connected');
    await send();
    await page.$eval('#options', (it) => {
      it.value = '?greeting=Hi';
      it.dispatchEvent(new Event('change'));
    });
    await send();
    await page.$eval('#protocols', (it) => {
      it.value = 'chat.v1';
      it.dispatchEvent(new Event('change'));
    });
    await twice('#send-text');
    await until(page, '#agreed', 'Subprotocolchat.v1');
    assert.deepEqual(await opened(), ['/socket?', '/echo?', '/echo?greeting=Hi&', '/echo?greeting=Hi&']);
    // One that is still being opened is left as well, and nothing is said of it.
    await page.click('#connect');
    await until(page, '#state', 'not connected');
    await page.$eval('#endpoint', (it) => {
      window.results = [];
      const result = document.getElementById('result');
      new MutationObserver(() => window.results.push(result.textContent)).observe(result, { childList: true });
      const connect = document.getElementById('connect');
      connect.click();
      it.dispatchEvent(new Event('change'));
      connect.click();
    });
    await until(page, '#state', 'connected in');
    assert.deepEqual(await page.evaluate(() => window.results.filter((it) => it.startsWith('✕'))), []);
  },

  /** A silence that is over is measured once more, however often one clicks. */
  async again(page) {
    await until(page, '#step-silence', 'still open');
    await page.click('#check');
    await until(page, '#check', 'Start again');
    const opened = await watch(page);
    await page.$eval('#check', (it) => [it.click(), it.click()]);
    await until(page, '#step-silence', 'still open');
    assert.deepEqual(await opened(), ['/socket?ping=off&']);
  },

  /** A test that another one has taken the place of says nothing more. */
  async overtaken(page) {
    await page.evaluate(() => {
      const { WebSocket } = window;
      const again = document.getElementById('again');
      const step = document.getElementById('step-silence');
      let left = 3;
      window.notes = [];
      new MutationObserver(() => window.notes.push(step.textContent)).observe(step, { childList: true, subtree: true });
      window.WebSocket = class extends WebSocket {
        constructor(url, ...more) {
          super(url, ...more);
          if (url.includes('ping=off') && (left -= 1) >= 0) setTimeout(() => again.click());
        }
      };
      again.click();
    });
    await until(page, '#step-silence', /[2-9] s, still open/);
    const notes = await page.evaluate(() => window.notes.filter((it) => it.includes('not measured')));
    assert.deepEqual(notes, []);
  },

  /** /info refuses to tell, and says why. */
  async untold(page) {
    await until(page, '#seen', 'It does not tell: no more than that.');
  },

  async check(page) {
    await until(page, '#step-silence', 'still open');
    await page.click('#check');
  },

  /** No sideways scrolling on the smallest phones. */
  async narrow(page, { name }) {
    if (name !== 'chrome') return;
    await page.setViewport({ width: 320, height: 700 });
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 320);
  },
};

/** Notes which WebSockets the page opens from now on: their paths and queries, up to the trace. */
async function watch(page) {
  await page.evaluate(() => {
    const { WebSocket, opened } = window;
    window.opened = [];
    if (opened) return;
    window.WebSocket = class extends WebSocket {
      constructor(url, ...more) {
        super(url, ...more);
        window.opened.push(url.replace(/^.*?[0-9](?=\/)|trace=.*/g, ''));
      }
    };
  });
  return () => page.evaluate(() => window.opened);
}

/** Opens a page, and checks it as the visit says. */
async function visit(context, { url, expected, lines, detail, steps = {}, checks = [], later, shots = {}, forced, calm }) {
  const { browser, name } = context;
  const page = await browser.newPage();
  const said = [];
  const asked = [];
  page.on('console', (message) => said.push(message.text()));
  page.on('pageerror', (error) => said.push(error.message));
  page.on('request', (request) => asked.push(request.url()));
  const listen = () => {
    window.reports = [];
    addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) => window.reports.push(`${violatedDirective} ${blockedURI}`));
  };
  // In Firefox, the driver's way of running something so early fails now and then.
  if (name === 'chrome') await page.evaluateOnNewDocument(listen);
  try {
    if (name === 'chrome') {
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: context.scheme }]);
      await page.setViewport({ width: 1280, height: 900 });
    }
    await page.goto(url);
    if (name !== 'chrome') await page.evaluate(listen);
    for (const check of checks.filter((check) => check === 'check')) await CHECKS[check](page, context);
    await until(page, '#sentence', new RegExp(expected));
    if (detail) await until(page, '#detail', detail);
    assert.deepEqual(await page.$eval('#lines', (it) => it.textContent.split('\n').filter(Boolean)), lines ?? [], 'lines to add');
    for (const [step, part] of Object.entries(steps)) await until(page, `#step-${step}`, part);
    for (const check of checks.filter((check) => check !== 'check')) {
      try {
        await CHECKS[check](page, context);
      } catch (error) {
        throw new Error(`${check}: ${error.message}`);
      }
    }
    const text = await page.$eval('main', (it) => it.textContent);
    assert.doesNotMatch(text, /undefined|\[object/, 'what is not known is left out');
    if (later && name === 'chrome') await until(page, '#sentence', new RegExp(later));
    for (const [width, path] of Object.entries(shots)) await shoot(page, name, Number(width), path);
    if (forced && name === 'chrome') await shootForced(page, forced);
    assert.deepEqual(await page.evaluate(() => window.reports), [], 'reports of the security policy');
    const strange = said.filter((it) => calm || !OWN_WORDS.test(it));
    assert.deepEqual(strange, [], 'what is in the console');
    const host = new URL(url).host;
    const elsewhere = asked.filter((it) => !it.startsWith('data:') && new URL(it).host !== host);
    assert.deepEqual(elsewhere, [], 'requests to elsewhere');
  } finally {
    await page.close();
  }
}

/** Takes a picture of the whole page. Only Chromium can be told the width. */
async function shoot(page, name, width, path) {
  if (name === 'chrome') {
    await page.setViewport({ width, height: 700 });
    // The graph and the scale follow the width with the next message.
    await new Promise((resolve) => setTimeout(resolve, 1200));
  }
  await page.screenshot({ path, fullPage: true });
}

/** The same with the colours of a high-contrast theme. */
async function shootForced(page, path) {
  const session = await page.createCDPSession();
  const features = [{ name: 'forced-colors', value: 'active' }, { name: 'prefers-color-scheme', value: 'dark' }];
  await session.send('Emulation.setEmulatedMedia', { features });
  await shoot(page, 'chrome', 1280, path);
  const [ink, ...drawn] = await page.evaluate(() => {
    const colour = (selector, property) => getComputedStyle(document.querySelector(selector))[property];
    return [colour('body', 'color'), colour('.trace', 'stroke'), colour('#scale text', 'fill'), colour('#glyph', 'fill')];
  });
  assert.deepEqual(drawn, [ink, ink, ink], 'drawings have the colour of the text');
}

async function main(name, executablePath, scheme) {
  const browser = await puppeteer.launch({
    browser: name,
    executablePath,
    args: [...FLAGS[name], ...(name === 'firefox' ? ['--width=1280', '--height=900'] : ['--ignore-certificate-errors'])],
    acceptInsecureCerts: true,
    defaultViewport: null,
    extraPrefsFirefox: {
      'ui.systemUsesDarkTheme': scheme === 'dark' ? 1 : 0,
      // After a failed attempt it waits longer and longer before the next one to the same port.
      'network.websocket.delay-failed-reconnects': false,
    },
  });
  try {
    for await (const line of readline.createInterface({ input: process.stdin })) {
      let answer = { ok: true };
      try {
        await visit({ browser, name, scheme }, JSON.parse(line));
      } catch (error) {
        answer = { error: error.message };
      }
      fs.writeSync(1, `${JSON.stringify(answer)}\n`);
    }
  } finally {
    await browser.close();
  }
}

main(...process.argv.slice(2));
