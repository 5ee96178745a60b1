// A line of one's own: any endpoint, options and subprotocols, and messages at will.

const BURST = 1000;
const PIECE = 65_536;
const OFFERS = {
  'ping=off': 'no pings, to measure how long silence is let through',
  'ping=5s': 'a ping after 5 s of silence',
  'close=1013,busy&after=5s': 'the server closes, with this code and reason, after 5 s',
  'close=4000&after=3': 'the same after 3 messages',
  'greeting=Hello': 'the server speaks first',
  'frames=whole': 'one frame for each frame, however long',
};

const trial = {
  line: null,
  opening: null,

  // The open line; opens one if there is none. Null if that fails.
  async open() {
    if (this.opening) return this.opening;
    if (this.line?.isOpen) return this.line;
    const opening = (this.opening = this.connect());
    const line = await opening;
    if (opening === this.opening) this.opening = null;
    return line;
  },

  async connect() {
    const options = byId('options').value.trim().replace(/^\?/, '');
    const protocols = byId('protocols').value.split(/[\s,]+/).filter(Boolean);
    const endpoint = facts.endpoints[byId('endpoint').selectedIndex];
    this.state('connecting …');
    try {
      this.line = new Line(endpoint, options, protocols);
    } catch ({ message }) {
      this.state('not connected');
      this.result(false, message);
      return null;
    }
    const { line } = this;
    log.add('open', line.url);
    const spoken = new Promise((resolve) => {
      line.unasked = (data) => resolve(log.frame('↓', data));
    });
    const took = await line.opened;
    if (took === null) return this.failed(line);
    log.add('open', `101 in ${duration(took)}`);
    this.state(`connected in ${duration(took)}`);
    showAgreed(line);
    line.ended.then((ended) => this.ended(line, ended));
    // What is sent before the greeting would take it for its answer.
    if (new URLSearchParams(options).has('greeting')) await within(PATIENCE, spoken);
    return line === this.line ? line : null;
  },

  // Leaves the line: what is chosen now is for the next one.
  leave() {
    this.line?.close();
    this.line = this.opening = null;
    this.state('not connected');
  },

  async failed(line) {
    log.end('close', await line.ended);
    if (line !== this.line) return null;
    this.state('not connected');
    const { sentence, detail } = await diagnose(line);
    if (line === this.line) this.result(false, `${sentence} ${detail ?? ''}`);
    return null;
  },

  ended(line, ended) {
    log.end('close', ended);
    if (line !== this.line) return;
    this.state('not connected');
    this.result(ended.wasClean, `The WebSocket was closed: ${closing(ended)}.`);
  },

  state(text) {
    setText(byId('state'), text);
    byId('connect').textContent = this.line?.isOpen ? 'Disconnect' : 'Connect';
  },

  result(good, text) {
    const mark = make('span', { className: good ? 'ok' : 'bad', ariaHidden: true }, good ? '✓ ' : '✕ ');
    byId('result').replaceChildren(mark, text);
  },

  // Sends one message and shows what comes back.
  async send(message, name) {
    const line = await this.open();
    if (!line) return;
    log.frame('↑', message);
    const answer = await line.ask(message);
    if (!answer) return this.result(false, `${name}: the connection ended before the answer came.`);
    log.frame('↓', answer.data, answer.took);
    if (answer.altered) this.result(false, `${name} came back altered: ${answer.altered}.`);
    else this.result(true, `${name} came back equal in ${duration(answer.took)}.`);
  },

  async burst() {
    const line = await this.open();
    if (!line) return;
    const begun = performance.now();
    const answers = Array.from({ length: BURST }, (_, index) => line.ask(`burst ${index + 1}`));
    log.add('burst', plural(BURST, 'message'), { arrow: '↑' });
    const came = (await Promise.all(answers)).filter(Boolean);
    const took = performance.now() - begun;
    const bad = came.find(({ altered }) => altered);
    const text = came.length < BURST
      ? `Only ${count(came.length)} of ${count(BURST)} messages came back.`
      : bad
        ? `A message of the burst came back altered: ${bad.altered}.`
        : `${plural(BURST, 'message')} came back in ${duration(took)}, all equal and in order: ${count(Math.round((BURST / took) * 1000))} a second.`;
    const good = came.length === BURST && !bad;
    log.add('burst', text, { arrow: '↓', bad: !good });
    this.result(good, text);
  },

  close() {
    const code = byId('code').value.trim();
    if (!this.line?.isOpen) return this.result(false, 'There is nothing to close: not connected.');
    try {
      this.line.close(...(code ? [Number(code)] : []));
      log.add('close', code || 'without a code', { arrow: '↑' });
    } catch {
      this.result(false, `A page may send 1000 and 3000 to 4999. For ${code} ask the server: ?close=${code}`);
    }
  },
};

function random(length) {
  const bytes = new Uint8Array(length);
  // No call may ask for more than a piece.
  for (let at = 0; at < length; at += PIECE) crypto.getRandomValues(bytes.subarray(at, at + PIECE));
  return bytes.buffer;
}

async function sendFile({ target }) {
  const [file] = target.files;
  target.value = '';
  if (!file) return;
  if (file.size > facts.limit) trial.result(false, `${file.name} has ${size(file.size)}; messages may have ${size(facts.limit)} here.`);
  else await trial.send(await file.arrayBuffer(), file.name);
}

function prepareTrial() {
  byId('endpoint').append(...facts.endpoints.map(({ path }) => make('option', {}, path)));
  const lengths = [1024, 65_536].filter((length) => length < facts.limit).concat(facts.limit);
  byId('sizes').append(...lengths.map((length) => make('button', { type: 'button', onclick: () => trial.send(random(length), size(length)) }, size(length))));
  byId('offers').append(...Object.entries(OFFERS).flatMap(([option, meaning]) => {
    const use = () => {
      byId('options').value = `?${option}`;
      trial.leave();
      byId('connect').focus();
    };
    return [make('dt', {}, make('button', { type: 'button', onclick: use }, `?${option}`)), make('dd', {}, meaning)];
  }));
  for (const id of ['endpoint', 'options', 'protocols']) byId(id).onchange = () => trial.leave();
  byId('send').onsubmit = (event) => {
    event.preventDefault();
    const text = byId('text').value;
    trial.send(text, text ? `“${text.length > 40 ? `${text.slice(0, 40)} …` : text}”` : 'An empty message');
  };
  byId('send-file').onclick = () => byId('file').click();
  byId('file').onchange = sendFile;
  byId('burst').onclick = () => trial.burst();
  byId('close').onclick = () => trial.close();
  byId('connect').onclick = () => (trial.line?.isOpen ? trial.line.close() : trial.open());
}
