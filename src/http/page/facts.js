// What was agreed, what the server saw of this browser, and the report for a ticket.

// Shows what the server saw of a plain request, which takes the same way as the handshake: the instance
// that opened the line, if there is one.
async function showSeen(line) {
  setText(byId('server'), `${facts.instance} · ${facts.version}`);
  const info = facts.info && (await (line ? askTrace(line) : ask('/info')))?.json;
  if (!info?.client) return list('seen', [['Server', `It does not tell: ${untold(info)}.`]]);
  const { client, received, reported, headers, warnings } = info;
  setText(byId('server'), `${info.instance} · ${info.version} · up ${age(info.uptime_seconds)}`);
  list('seen', [
    ['Instance', info.instance !== facts.instance && info.instance, `The page came from ${facts.instance}: there are several.`],
    ['Client', client.address, capital(quoted(client.message))],
    ...client.ignored.map(({ header, message }) => ['Ignored', header, capital(quoted(message))]),
    ['Peer', info.peer, info.proxy_header && `PROXY header: ${info.proxy_header}`],
    ['Host', received.host, reported.host && `The proxy says ${reported.host}.`],
    ['Scheme', reported.scheme ?? received.scheme, reported.scheme && `So says the proxy; ${received.scheme} arrived.`],
    ['Request', `${received.method} ${received.target.replace(/\?trace=.*/, '')}`, received.http_version],
    ['Warnings', warnings.length ? '' : 'none'],
    ...warnings.map(({ message, lines }) => ['Warning', capital(quoted(message)), lines?.join('\n')]),
  ]);
  byId('headers').hidden = false;
  byId('fields').textContent = headers.map(({ name, value }) => `${name}: ${value}`).join('\n');
}

function age(seconds) {
  const [unit, name] = [[86_400, 'd'], [3600, 'h'], [60, 'min']].find(([unit]) => seconds >= unit) ?? [1, 's'];
  return `${Math.floor(seconds / unit)}\u00a0${name}`;
}

// Shows names and values; a value may have a note.
function list(id, entries) {
  byId(id).replaceChildren(...entries.filter(([, value]) => value).flatMap(([name, value, note]) => [
    make('dt', {}, name), make('dd', {}, value, ...(note ? [make('small', {}, note)] : [])),
  ]));
}

function showAgreed(line) {
  const { protocol, extensions } = line?.socket ?? {};
  list('agreed', line
    ? [
      ['WebSocket', line.url],
      ['Subprotocol', protocol || 'none'],
      ['Compression', extensions || 'none', extensions ? 'A browser does not tell the bytes on the wire.' : ''],
      ['Message limit', size(facts.limit)],
    ]
    : [['WebSocket', 'none'], ['Message limit', size(facts.limit)]]);
}

function report() {
  const found = verdict();
  const { figures } = test;
  const steps = Object.entries(SHOWN).map(([step, name]) => `${name}: ${findings[step].note}`);
  const remedy = found?.remedy ? [`${found.remedy.place}:`, ...found.remedy.lines.map((line) => `    ${line}`)] : [];
  const pairs = [...document.querySelectorAll('#agreed dt, #seen dt')].map((term) => `${term.textContent}: ${term.nextSibling.firstChild.textContent}`);
  return [
    found?.sentence, found?.detail, ...remedy, '',
    `Time: ${new Date().toISOString()}`, `Page: ${location.href}`, `WebSocket: ${test.line?.url}`,
    `Browser: ${navigator.userAgent}`, `Server: ${byId('server').textContent}`, ...steps,
    ...(figures ? [`Round trip: median ${duration(figures.median)}, 95 % ${duration(figures.p95)}, slowest ${duration(figures.slowest)}, unanswered ${figures.unanswered} of ${figures.sent}`] : []),
    '', ...pairs, '', 'Log, newest first:', ...log.lines.slice(0, 40), '',
  ].filter((line) => line !== undefined && line !== null).join('\n').replaceAll('\u00a0', ' ');
}
