// The test that runs by itself: handshake, echo, then silence beside one message a second.

const STILL = 10_000;
// Firefox gives up by itself a moment later.
const GIVE_UP = 19_500;
// Firefox does not tell a page that it has not even tried yet.
const PUT_OFF = navigator.userAgent.includes('Firefox') ? ' After failed attempts Firefox puts off the next one for up to a minute: wait, and test again.' : '';

const test = {
  line: null,
  pulse: null,
  silence: null,
  ticked: performance.now(),
  offset: Date.now() - performance.now(),
  sleptAt: 0,

  // Notices that this page or its computer has slept: the timer comes late, or the clock of the day has
  // gone on alone. In the background, the timer may come once a minute only.
  notice() {
    const now = performance.now();
    if (now - this.ticked > (document.hidden ? 70_000 : 5000) || Math.abs(Date.now() - now - this.offset) > 5000) {
      this.pulse?.forget(this.ticked);
      this.sleptAt = now;
    }
    this.ticked = now;
    this.offset = Date.now() - now;
  },

  // Whether the page has slept since a line was opened: its end may come of that.
  slept({ since }) {
    this.notice();
    return this.sleptAt > since;
  },

  get figures() {
    return this.pulse?.figures();
  },

  async run() {
    this.stop();
    forget();
    find('page', ok(pageNote()));
    showAgreed(null);
    const line = await this.shake(facts.endpoints[0]);
    // Not earlier: it would count against the client's quota.
    showSeen(line);
    if (!line || !(await this.echo(line))) return;
    this.pulse = new Pulse(line);
    this.silence = new Silence(line);
    this.beat();
    this.watch(line, await line.ended);
  },

  stop() {
    for (const line of [this.line, this.silence?.line]) line?.close();
    if (this.silence) this.silence.state = 'over';
    this.line = this.pulse = this.silence = null;
    for (const id of ['trips', 'quiet']) byId(id).hidden = true;
    for (const id of ['no-pulse', 'no-silence']) byId(id).hidden = false;
    byId('no-silence').textContent = 'Starts as soon as the echo works.';
    byId('check').disabled = true;
  },

  // Opens the line; null if it does not open, and then the reason is found.
  async shake(endpoint) {
    find('handshake', busy('waiting for the answer', 'Opening a WebSocket …'));
    let line;
    try {
      line = this.line = new Line(endpoint);
    } catch ({ message }) {
      find('handshake', bad('not tried', 'This browser does not even try to open the WebSocket.', message));
      return null;
    }
    byId('address').textContent = line.url;
    log.add('open', line.url);
    let took = await within(STILL, line.opened);
    if (took === undefined) {
      find('handshake', warn('no answer yet', 'Still no answer to the handshake.'));
      took = await within(GIVE_UP - STILL, line.opened);
    }
    if (line !== this.line) return null;
    if (typeof took === 'number') {
      log.add('open', `101 in ${duration(took)}`);
      find('handshake', ok(`101 in ${duration(took)}`));
      showAgreed(line);
      return line;
    }
    if (took === null) log.end('close', await line.ended);
    const found = await diagnose(line);
    if (took === undefined) {
      found.detail = `${found.sentence} ${found.detail ?? ''}${PUT_OFF}`;
      found.sentence = 'No answer to the handshake within 20 s.';
    }
    line.close();
    if (line === this.line) find('handshake', found);
    return null;
  },

  // Whether text and binary come back as they were sent.
  async echo(line) {
    find('echo', busy('waiting for it', 'The WebSocket is open; waiting for the echo …'));
    const opening = findings.handshake.note;
    let took;
    for (const message of ['Hello world', Uint8Array.from({ length: 256 }, (_, byte) => byte).buffer]) {
      log.frame('↑', message);
      const answer = await within(PATIENCE, line.ask(message));
      if (line !== this.line) return false;
      if (!answer) {
        find('echo', await this.unanswered(line, answer));
        return false;
      }
      log.frame('↓', answer.data, answer.took);
      took ??= answer.took;
      if (answer.altered) {
        find('echo', bad('altered', 'The echo comes back altered.', `Something on the way changes messages: in the answer to ${kind(message)}, ${answer.altered}.`));
        return false;
      }
    }
    find('echo', ok(`equal, ${duration(took)}`, 'WebSockets work from here.', `The handshake was answered with ${opening}; “Hello world” came back equal in ${duration(took)}.`));
    return true;
  },

  async unanswered(line, answer) {
    if (answer === undefined) {
      return bad('no answer', 'The WebSocket opens, but the first message never comes back.', 'Something on the way lets the handshake through and then holds back what follows it.');
    }
    const ended = await line.ended;
    log.end('close', ended);
    if (ended.wasClean) return bad(`closed: ${ended.code}`, `The server closed the connection: ${closing(ended)}.`);
    return bad('cut', 'The WebSocket opens, and is cut before the first message comes back.', `It lived for ${duration(ended.lived)}, and ended without a Close frame (code ${ended.code}).`);
  },

  // What the end of the busy line means.
  async watch(line, ended) {
    if (line !== this.line) return;
    log.end('close', ended);
    showAgreed(null);
    if (!ended.wasClean && this.slept(line)) {
      find('use', warn('', 'The connection ended while this page was asleep.', 'Press “Test again”.'));
      return;
    }
    if (ended.wasClean) {
      find('use', warn('', `The server closed the connection: ${closing(ended)}.`));
      return;
    }
    await sleep(VERDICT_DELAY);
    // A cut of both lines at one age is found by the silent one.
    const both = this.silence.state !== 'quiet' && Math.abs(this.silence.lived - ended.lived) < VERDICT_DELAY;
    if (line !== this.line || both) return;
    find('use', warn('', `The connection was cut after ${duration(ended.lived)}, although it was in use.`, `It ended without a Close frame (code ${ended.code}).`));
  },

  beat() {
    this.notice();
    this.pulse?.beat();
    this.pulse?.show();
    this.silence?.tick();
  },
};

const pageTiming = () => performance.getEntriesByType('navigation')[0];

// How long the page's own request took, in ms.
const pageTime = () => pageTiming().responseStart - pageTiming().requestStart;

const pageNote = () => [pageTiming().nextHopProtocol, duration(pageTime())].filter(Boolean).join(', ');

byId('copy-lines').onclick = ({ target }) => copy(byId('lines').textContent, target);
byId('report').onclick = ({ target }) => copy(report(), target);
byId('again').onclick = () => test.run();
byId('check').onclick = () => {
  const { state } = test.silence;
  if (state === 'quiet') test.silence.check();
  else if (state === 'over' || state === 'refused') test.silence = new Silence(test.line);
};
document.addEventListener('freeze', () => {
  test.offset = Infinity;
});
prepareTrial();
setInterval(() => test.beat(), 1000);
test.run();
