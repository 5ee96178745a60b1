//! Arbitrary configurations of proxies, tables of /proc and answers of programs: whatever the doctor reads,
//! it ends, and judges what it found.
//!
//! Both the property test and the fuzzer call these with any text.

use std::path::Path;

use wsecho::config::Config;
use wsecho::doctor::passage::{Ours, hosts};
use wsecho::doctor::report::Report;
use wsecho::doctor::unit::Unit;
use wsecho::doctor::{apache, haproxy, limits, nginx, proc, reload, unit};

/// What configurations are made of; a soup of it gets further than bytes do.
pub const WORDS: &[&str] = &[
    "http",
    "{",
    "}",
    ";",
    "\n",
    " ",
    "server",
    "location",
    "/",
    "=",
    "~",
    "^~",
    "@a",
    "/socket",
    "proxy_pass",
    "http://127.0.0.1:8888",
    "http://$a",
    "set",
    "$a",
    "map",
    "default",
    "if",
    "\"",
    "'",
    "\\",
    "#",
    "upstream",
    "proxy_set_header Upgrade $http_upgrade;",
    "listen\n",
    "backend a\n",
    "frontend a\n",
    "defaults\n",
    "mode http\n",
    "server a 127.0.0.1:8888",
    "default_backend a\n",
    "timeout tunnel",
    "1h",
    "<VirtualHost *:80>\n",
    "</VirtualHost>\n",
    "ProxyPass",
    "ws://",
    "127.0.0.1:8888",
    "RewriteEngine On\n",
    "RewriteRule ^/(.*)",
    "[P]\n",
    "${a}",
    "%{x}",
    "(",
];

/// What the answers of a host are made of.
pub const ANSWERS: &[&str] = &[
    "\n",
    "\n\n",
    " ",
    "=",
    "\0",
    "\u{1b}[2J",
    "Id=wsecho.service\n",
    "Id=wsecho@1.service\n",
    "Id=wsecho.socket\n",
    "LoadState=masked\n",
    "ActiveState=active\n",
    "ActiveState=failed\n",
    "ActiveState=activating\nSubState=auto-restart\n",
    "UnitFileState=enabled\n",
    "Result=exit-code\nExecMainCode=1\n",
    "ExecMainStatus=",
    "MainPID=",
    "LimitNOFILE=",
    "Environment=",
    "WSECHO_CONFIG=/a:/b",
    "ListenStream=",
    "Listen=127.0.0.1:8888 (Stream)\n",
    "NeedDaemonReload=yes\n",
    "99999999999999999999",
    "-1",
    "78",
    "0: 0100007F:22B8 00000000:0000 0A 0 0 0 0 0 4711 1\n",
    "0: 2 0 00010000 0001 01 4711 /run/w.sock\n",
    "Max open files ",
    "unlimited",
    "0::/../..\n",
    "2:memory:/a\n",
    "wsecho_config_last_reload_successful 0\n",
    "wsecho_config_last_reload_timestamp_seconds 1e999\n",
    "wsecho_build_info{version=\"",
];

/// Reads a text as each of the three, and judges.
pub fn any_configuration(text: &str) {
    let config = Config::default();
    let ours = Ours { addrs: config.boot.bind.clone(), hosts: hosts(text) };
    let file = Path::new("x");
    let mut sections = Vec::new();
    haproxy::parse(text, file, &mut sections);
    let all = [
        nginx::passages(&nginx::parse(text, file), None, &ours, &config),
        haproxy::passages(&sections, &ours).0,
        apache::passages(&apache::parse(text, file), &ours, &config).0,
    ];
    let lines = text.lines().count();
    for passage in all.into_iter().flatten() {
        assert!((1..=lines).contains(&passage.place.line), "{:?} of {text:?}", passage.place);
        for finding in passage.judge(&config).0 {
            assert!(!finding.what.is_empty() && !finding.fix.is_empty(), "{finding:?}");
        }
    }
}

/// Reads a text as everything that the doctor asks of a host, and judges.
pub fn any_answer(text: &str) {
    for table in [proc::in_tcp_table(text), proc::in_unix_table(text)] {
        assert!(table.len() <= text.lines().count());
    }
    let units = Unit::all(text);
    let mut report = Report::default();
    unit::judge(&units, |_| Some(text.to_owned()), &mut report);
    assert!(unit::in_use(&units).all(Unit::is_service));
    for unit in &units {
        assert!(unit.listens().count() <= text.lines().count());
        assert!(unit.variables().all(|(name, _)| !name.contains('=')));
        let _ = (unit.pid(), unit.limit("LimitNOFILE"), unit.name());
    }
    let _ = limits::descriptors(text);
    let _ = limits::cgroup_limit(text, |_| Ok(text.to_owned()));
    reload::judge(text, text, Some(text), [Some(2.0), Some(1.0)], &mut report);
    reload::program(Path::new("/x (deleted)"), text, Some(text), &mut report);
    assert_eq!(report.json().lines().count(), 1);
    assert!(!report.terminal().contains('\u{1b}'));
}
