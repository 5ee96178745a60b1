// The silent line: how long something on the way lets a WebSocket live on which nothing is said.

const LIMITS = [
  [30, 'Google Cloud balancer'], [60, 'nginx, Apache, ALB'], [100, 'Cloudflare'],
  [240, 'Azure balancer'], [300, 'Envoy, F5 BIG-IP'], [350, 'AWS NLB, NAT gateway'],
];
const SCALE = 400;
// Some boxes forget a connection without telling either end, so silence ends with a message.
const LONGEST = 600_000;
// Whether the busy line is cut as well shows within this time.
const VERDICT_DELAY = 1500;

class Silence {
  state = 'waiting';

  // `busy` is the line that is used all the time.
  constructor(busy) {
    this.busy = busy;
    this.#start();
  }

  async #start() {
    const line = (this.line = new Line(this.busy.endpoint, 'ping=off'));
    const took = await line.opened;
    // A test that is over has nothing more to show.
    if (this.state === 'over') return;
    if (took === null) {
      const { note, sentence } = await diagnose(line);
      if (this.state === 'over') return;
      this.state = 'refused';
      this.#show('none', `not measured: ${note}`, sentence);
      return;
    }
    this.state = 'quiet';
    this.#show('busy', 'still open', 'A second connection (?ping=off) says nothing until something cuts it. At 10:00 the page asks whether it still lives.');
    this.tick();
    const ended = await line.ended;
    if (this.state !== 'over') await this.#end(ended);
  }

  // Called every second.
  tick() {
    if (this.state !== 'quiet') return;
    if (test.slept(this.line)) {
      this.#sleep();
      return this.line.close();
    }
    this.lived = performance.now() - this.line.since;
    showClock(clock(this.lived), this.lived);
    setText(byId('step-silence').lastElementChild, `${Math.floor(this.lived / 1000)} s, still open`);
    if (this.lived > LONGEST) this.check();
  }

  // Ends the silence with a message.
  async check() {
    this.state = 'asking';
    const answer = await within(PATIENCE, this.line.ask('still there?'));
    if (this.state !== 'asking') return;
    const lived = clock(this.lived);
    if (answer) {
      this.#stop('ok', `${lived} survived`, `Alive after ${lived} of silence.`);
    } else if (test.slept(this.line)) {
      this.#sleep();
    } else if (answer === undefined) {
      this.#stop('warn', `forgotten within ${lived}`, `No answer after ${lived} of silence.`, {
        sentence: `No answer after ${lived} of silence, and no notice: something forgot the connection.`,
        detail: pingAdvice(this.lived),
      });
    }
    this.line.close();
  }

  #sleep() {
    this.#stop('none', 'not measured', 'This page slept meanwhile: not measured.');
  }

  async #end(ended) {
    this.state = 'ended';
    this.lived = ended.lived;
    log.end('silence', ended);
    if (test.slept(this.line)) return this.#sleep();
    if (ended.wasClean) {
      this.#stop('none', `closed: ${ended.code}`, `The server closed it after ${duration(ended.lived)}: ${closing(ended)}.`);
      return;
    }
    const gone = await within(VERDICT_DELAY, this.busy.ended);
    if (this.state === 'over') return;
    const after = limit(ended.lived);
    const note = `Cut after ${duration(ended.lived)}, code ${ended.code}: no Close frame came; something on the way cut it.`;
    if (gone && Math.abs(gone.lived - ended.lived) < VERDICT_DELAY) {
      this.#stop('warn', `cut after ${after}`, note, {
        sentence: `Connections are cut after ${after}, whether silent or not.`,
        detail: `${origin(ended.lived)} Raise that limit; until then clients have to reconnect.`,
      });
    } else if (!gone) {
      this.#stop('warn', `cut after ${after}`, note, {
        sentence: `WebSockets work from here, but silence is cut after ${after}.`,
        detail: `${origin(ended.lived)} ${pingAdvice(ended.lived)}`,
      });
    } else {
      this.#stop('none', 'not measured', note);
    }
  }

  #stop(kind, note, text, verdict = {}) {
    this.state = 'over';
    showClock(kind === 'warn' ? duration(this.lived) : clock(this.lived), this.lived, kind);
    this.#show(kind, note, text, verdict);
  }

  #show(kind, note, text, verdict = {}) {
    byId('no-silence').hidden = this.state !== 'refused';
    byId('quiet').hidden = this.state === 'refused';
    if (this.state === 'refused') byId('no-silence').textContent = `Not measured. ${text}`;
    setText(byId('quiet-note'), text);
    byId('check').disabled = false;
    byId('check').textContent = this.state === 'quiet' ? 'Check now' : 'Start again';
    find('silence', { kind, note, ...verdict });
  }
}

// Whose default a limit is.
function origin(ms) {
  const known = knownLimit(ms);
  return known ? `${known[0]} s is a default of ${known[1]}.` : 'It is no default that we know.';
}

const knownLimit = (ms) => LIMITS.find(([seconds]) => Math.abs(ms / 1000 - seconds) <= seconds * 0.02);

// How to live with an idle limit.
function pingAdvice(ms) {
  return facts.ping * 1000 < ms
    ? `Raise that limit, or ping more often: wsecho does so every ${facts.ping} s unless asked not to.`
    : `Raise that limit: wsecho pings only every ${facts.ping} s (timeouts.ping_interval), which is too seldom for this path.`;
}

function showClock(text, lived, kind) {
  byId('clock').textContent = text;
  const known = kind === 'warn' ? knownLimit(lived) : null;
  const scale = byId('scale');
  const width = scale.clientWidth;
  // The square root spreads the short limits, which are the common ones.
  const x = (seconds) => Math.min(1, Math.sqrt(seconds / SCALE)) * width;
  const bar = (className, length) => draw('rect', { class: className, y: 4, width: length, height: 6, rx: 3 });
  const parts = [bar('track', width), bar(kind === 'warn' ? 'lived warn' : 'lived', x(lived / 1000))];
  let free = 0;
  for (const mark of LIMITS) {
    const [seconds] = mark;
    parts.push(draw('line', { class: 'tick', x1: x(seconds), x2: x(seconds), y1: 1, y2: 13 }));
    if (x(seconds) - 14 < free) continue;
    free = x(seconds) + 14;
    const text = seconds === LIMITS[0][0] ? `${seconds} s` : String(seconds);
    parts.push(draw('text', { x: x(seconds), y: 28, 'text-anchor': 'middle', class: mark === known ? 'hit' : '' }, text));
  }
  scale.setAttribute('viewBox', `0 0 ${width} 34`);
  scale.replaceChildren(...parts);
  byId('limits').replaceChildren(...LIMITS.map((entry) => make('div', { className: entry === known ? 'hit' : '' },
    make('dt', {}, `${entry[0]} s`), make('dd', {}, entry[1]))));
}
