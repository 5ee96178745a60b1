// The busy line: one message a second, the figures, and their graph.

const PATIENCE = 5000;
const SLOW = 250;
const WINDOWS = [30, 60, 120, 300];
const HEIGHT = 148;

const quantile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];

class Pulse {
  samples = [];
  #sent = 0;

  constructor(line) {
    this.line = line;
  }

  // Sends the next message; called every second.
  async beat() {
    if (!this.line.isOpen) return;
    const sample = { at: performance.now() };
    this.samples.push(sample);
    // The graph shows no more than this.
    if (this.samples.length > WINDOWS.at(-1)) this.samples.shift();
    const answer = await this.line.ask(`ping ${++this.#sent}`);
    if (answer) sample.took = answer.took;
  }

  // Drops what was under way at a time, when the page fell asleep.
  forget(time) {
    this.samples = this.samples.filter(({ at, took }) => at + (took ?? PATIENCE) < time);
  }

  // The figures, or null before the first answer.
  figures() {
    const now = performance.now();
    const took = this.samples.map((sample) => sample.took).filter((took) => took !== undefined);
    const unanswered = this.samples.filter(({ at, took }) => took === undefined && now - at > PATIENCE).length;
    if (!took.length) return null;
    const sorted = took.toSorted((one, other) => one - other);
    return {
      last: took.at(-1), median: quantile(sorted, 0.5), p90: quantile(sorted, 0.9), p95: quantile(sorted, 0.95),
      slowest: sorted.at(-1), answered: took.length, unanswered, sent: this.samples.length,
    };
  }

  show() {
    const figures = this.figures();
    byId('no-pulse').hidden = Boolean(figures);
    byId('trips').hidden = !figures;
    if (!figures) return;
    const { last, median, p95, slowest, unanswered, sent } = figures;
    const shown = { last: duration(last), median: duration(median), '95 %': duration(p95), slowest: duration(slowest), unanswered: `${unanswered} of ${sent}` };
    byId('figures').replaceChildren(...Object.entries(shown).map(([name, figure]) => make('p', {}, make('b', {}, figure), make('span', {}, name))));
    byId('chart').setAttribute('aria-label', `Round trips over time, median ${duration(median)}`);
    drawChart(byId('chart'), this.samples, figures);
    this.#judge(figures);
  }

  #judge({ answered, median }) {
    const waiting = this.samples.find(({ took }) => took === undefined);
    const stalled = waiting && this.line.isOpen ? performance.now() - waiting.at : 0;
    if (stalled > 2 * PATIENCE) {
      find('pace', warn('', `The WebSocket is open, but nothing has come back for ${Math.floor(stalled / 1000)} s.`));
    } else if (answered >= 5 && median > SLOW) {
      find('pace', warn('', `WebSockets work from here, but slowly: a message takes ${duration(median)} to come back.`, `The page’s own request took ${duration(pageTime())}.`));
    } else {
      find('pace', ok());
    }
  }
}

// The smallest round number that is no less than this.
function roundUp(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * unit >= value);
}

// Draws round trips over time. A few slow ones must not flatten the rest: they are triangles at the
// top. Without an answer there is a gap.
function drawChart(chart, samples, { median, p90 }) {
  const width = chart.clientWidth;
  const [left, right, top, bottom] = [52, width - 8, 12, HEIGHT - 22];
  const now = performance.now();
  const window = WINDOWS.find((seconds) => now - samples[0].at <= seconds * 1000) ?? WINDOWS.at(-1);
  const highest = roundUp(Math.max(1.3 * p90, 2.5 * median, 0.01));
  const x = (at) => right - ((now - at) / (window * 1000)) * (right - left);
  const y = (took) => bottom - (Math.min(took, highest) / highest) * (bottom - top);
  const label = (at, text, anchor, height) => draw('text', { x: at, y: height, 'text-anchor': anchor }, text);
  const line = (height, className) => draw('line', { class: className, x1: left, x2: right, y1: height, y2: height });

  const parts = [0, highest / 2, highest].flatMap((took) => [line(y(took), 'grid'), label(left - 8, took ? duration(took) : '0', 'end', y(took) + 4)]);
  const ago = (seconds) => (seconds < 120 ? `${seconds} s` : `${seconds / 60} min`);
  parts.push(label(left, `${ago(window)} ago`, 'start', HEIGHT - 4), label((left + right) / 2, ago(window / 2), 'middle', HEIGHT - 4), label(right, 'now', 'end', HEIGHT - 4));
  const shown = samples.filter(({ at }) => at >= now - window * 1000);
  for (const run of runs(shown)) {
    const points = run.map(({ at, took }) => `${x(at).toFixed(1)},${y(took).toFixed(1)}`);
    const ends = [`${x(run.at(-1).at)},${bottom}`, `${x(run[0].at)},${bottom}`];
    parts.push(draw('polygon', { class: 'area', points: [...points, ...ends].join(' ') }), draw('polyline', { class: 'trace', points: points.join(' ') }));
  }
  parts.push(line(y(median), 'median'));
  for (const { at } of shown.filter(({ took }) => took > highest)) {
    parts.push(draw('path', { class: 'over', d: `M${x(at) - 4} ${top}h8l-4 -7z` }));
  }
  const last = shown.findLast(({ took }) => took !== undefined);
  if (last) parts.push(draw('circle', { class: 'last', cx: x(last.at), cy: y(last.took), r: 3.5 }));
  chart.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
  chart.replaceChildren(...parts);
}

// The samples between gaps.
function runs(samples) {
  const found = [];
  let run = null;
  for (const sample of samples) {
    if (sample.took === undefined) run = null;
    else if (run) run.push(sample);
    else found.push((run = [sample]));
  }
  return found;
}
