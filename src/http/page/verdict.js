// The verdict: what is known of each step, and the sentence that follows from all of them.

// In order of severity; among equals, what comes first in STEPS speaks.
const KINDS = ['none', 'ok', 'busy', 'warn', 'bad'];
const STEPS = ['page', 'handshake', 'echo', 'silence', 'use', 'pace'];
const SHOWN = { page: 'Page', handshake: 'Handshake', echo: 'Echo', silence: 'Silence' };
const STATES = { none: 'not reached', ok: 'passed', busy: 'running', warn: 'warning', bad: 'failed' };
const MARKS = { ok: '✓', warn: '!', bad: '✕' };

let findings = {};

// Notes what is known of a step: `kind`, `note` for its cell, and `sentence`, `detail`, `remedy`.
function find(step, finding) {
  findings[step] = finding;
  if (step in SHOWN) showStep(step, finding);
  showVerdict();
}

const ok = (note, sentence, detail) => ({ kind: 'ok', note, sentence, detail });
const busy = (note, sentence) => ({ kind: 'busy', note, sentence });
const warn = (note, sentence, detail) => ({ kind: 'warn', note, sentence, detail });
const bad = (note, sentence, detail, remedy) => ({ kind: 'bad', note, sentence, detail, remedy });

function forget() {
  findings = {};
  for (const step of Object.keys(SHOWN)) find(step, { kind: 'none', note: 'not reached' });
}

// The worst finding that has something to say.
function verdict() {
  const severity = (step) => KINDS.indexOf(findings[step].kind);
  const speaking = STEPS.filter((step) => findings[step]?.sentence);
  return speaking.length ? findings[speaking.reduce((worst, step) => (severity(step) > severity(worst) ? step : worst))] : null;
}

function glyph(element, kind) {
  element.setAttribute('class', `glyph ${kind}`);
  element.firstElementChild.setAttribute('href', `#${kind}`);
}

function showStep(step, { kind, note }) {
  const cell = byId(`step-${step}`) ?? byId('steps').appendChild(cellOf(step));
  cell.className = kind;
  glyph(cell.firstElementChild, kind);
  cell.firstElementChild.setAttribute('aria-label', STATES[kind]);
  setText(cell.lastElementChild, note);
}

function cellOf(step) {
  const icon = draw('svg', { role: 'img' }, draw('use', {}));
  return make('li', { id: `step-${step}` }, icon, make('b', {}, SHOWN[step]), make('p'));
}

// Sets a text that a screen reader announces, so only if it is another one.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showVerdict() {
  const found = verdict();
  if (!found) return;
  glyph(byId('glyph'), found.kind);
  setText(byId('sentence'), found.sentence);
  setText(byId('detail'), found.detail ?? '');
  document.title = [MARKS[found.kind], found.sentence].filter(Boolean).join(' ');
  const remedy = found.remedy;
  byId('remedy').hidden = !remedy;
  if (!remedy) return;
  byId('place').textContent = `${remedy.place}:`;
  byId('lines').textContent = remedy.lines.join('\n');
  byId('elsewhere').textContent = `${capital(quoted(remedy.elsewhere))}. Then reload the proxy and press “Test again”.`;
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// The server's sentences are for terminals, with backquotes.
const quoted = (text) => text.replace(/`([^`]*)`/g, '“$1”');
