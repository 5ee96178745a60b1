//! `packaging/roll`, and whatever else calls systemctl, on the systemd of EL 7: 219.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::operations::read;
use crate::service::Outcome;

/// The long options of systemctl in 219, as EL 7.9 has it: from its table of options.
const OPTIONS: &str = "after all before fail failed force full global help host ignore-dependencies \
    ignore-inhibitors irreversible job-mode kill-who lines machine no-ask-password no-block no-legend \
    no-pager no-reload no-wall now output plain preset-mode property quiet recursive reverse root \
    runtime show-types signal state system type user version";
/// The letters that it takes.
const LETTERS: &str = "-htpalqfsHMnoir";
/// The verbs of 219 that a package or its documentation may want.
const VERBS: &str = "cat daemon-reload disable edit enable is-active is-enabled is-failed kill \
    list-timers list-unit-files list-units mask preset reload reset-failed restart show start status \
    stop try-restart unmask";

fn lists(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|it| it == word)
}

fn is_option(word: &str) -> bool {
    match word.strip_prefix("--") {
        Some(long) => lists(OPTIONS, long.split('=').next().unwrap_or_default()),
        None => word.chars().all(|letter| LETTERS.contains(letter)),
    }
}

/// A folder with a systemctl that answers as 219 does: it lists these units, fails to do `fails`, and
/// writes down what it was told.
fn systemctl_219(listed: &str, fails: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let calls = folder.path().join("calls");
    let known = OPTIONS.split_whitespace().map(|it| format!("--{it} | --{it}=*"));
    let script = format!(
        "#!/bin/sh
for word; do
    case $word in
        {}) ;;
        -*) echo \"systemctl: unrecognized option '$word'\" >&2; exit 1 ;;
    esac
done
echo \"$*\" >> {}
case \"$*\" in
    *list-units*) cat <<'END'
{listed}END
    ;;
    '{fails}') exit 1 ;;
esac
",
        known.collect::<Vec<_>>().join(" | "),
        calls.display()
    );
    let program = folder.path().join("systemctl");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    folder
}

/// As 219 lists units without a legend: in columns, and without the bullet of a failed one.
const FOUR: &str = "\
wsecho@1.service          loaded active running WebSocket echo service, instance 1
wsecho@2.service          loaded active running WebSocket echo service, instance 2
wsecho@b\\x2dlue.service  loaded active running WebSocket echo service, instance b-lue
";

/// Runs the roll; returns its exit code, what it said, and what it told systemctl.
fn roll(listed: &str, fails: &str) -> (i32, String, Vec<String>) {
    let folder = systemctl_219(listed, fails);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/roll");
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    let outcome =
        Outcome::of(Command::new("sh").arg(script).env("PATH", path).env_remove("SYSTEMCTL"));
    assert_eq!(outcome.stdout, "");
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    let mut calls: Vec<String> = calls.lines().map(str::to_owned).collect();
    assert!(calls.remove(0).contains("list-units"), "{calls:?}");
    (outcome.code(), outcome.stderr, calls)
}

#[test]
fn instances_are_restarted_one_by_one_and_the_rest_leave_newcomers_to_those_that_are() {
    let (code, said, calls) = roll(FOUR, "");
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(
        calls,
        [
            "reload wsecho@1.service",
            "try-restart wsecho@1.service",
            r"kill --kill-who=main --signal=USR1 wsecho@2.service wsecho@b\x2dlue.service",
            "reload wsecho@2.service",
            "try-restart wsecho@2.service",
            r"kill --kill-who=main --signal=USR1 wsecho@b\x2dlue.service",
            r"reload wsecho@b\x2dlue.service",
            r"try-restart wsecho@b\x2dlue.service",
        ]
    );
}

#[test]
fn the_single_service_takes_no_newcomers_of_the_instances() {
    let single = "wsecho.service loaded active running WebSocket echo service\n";
    let (code, _, calls) = roll(&format!("{single}{FOUR}"), "");
    assert_eq!(code, 0);
    assert_eq!(calls[1], "try-restart wsecho.service");
    assert_eq!(calls[2], "reload wsecho@1.service", "nobody steps aside for it");
}

#[test]
fn the_first_that_fails_ends_the_roll_and_is_named() {
    for (fails, last, said) in [
        ("reload wsecho@1.service", 0, "NOT restarted: wsecho@1 fails to reload"),
        ("try-restart wsecho@2.service", 4, "wsecho@2 did not start again."),
    ] {
        let (code, stderr, calls) = roll(FOUR, fails);
        assert_eq!((code, calls.len()), (1, last + 1), "{calls:?}");
        assert_eq!(calls[last], fails);
        assert!(stderr.contains(said) && stderr.contains("journalctl -u wsecho@"), "{stderr}");
        assert!(stderr.contains("The other instances were left alone"), "{stderr}");
    }
    let (code, stderr, calls) = roll("", "");
    assert_eq!((code, stderr.as_str(), calls.len()), (0, "", 0), "nothing runs");
}

#[test]
fn nothing_calls_systemctl_with_what_219_does_not_know() {
    let files = "packaging/roll packaging/restart packaging/wsecho.spec packaging/deb/postinst \
        packaging/deb/postrm packaging/deb/prerm docs/install.md docs/operations.md docs/probe.md \
        docs/proxies.md docs/doctor.md README.md systemd/wsecho.service systemd/wsecho.socket \
        systemd/wsecho@.service systemd/wsecho-probe@.timer";
    let mut seen = 0;
    for file in files.split_whitespace() {
        let text = read(file).replace("\\\n", " ").replace("\"$control\"", "systemctl");
        for call in text.split("systemctl ").skip(1) {
            let call = call.split(['\n', ';', '|', '&', '<', '>', '`', ')', ',']).next().unwrap();
            let words: Vec<_> = call.split_whitespace().collect();
            let options = words.iter().take_while(|word| **word != "#");
            let options: Vec<_> = options.filter(|word| word.starts_with('-')).collect();
            let Some(verb) = words.iter().find(|word| !word.starts_with('-')) else { continue };
            // Such as `>/dev/null` behind a variable, or a sentence about it.
            if verb.starts_with(['%', '{', '.']) {
                continue;
            }
            let verb = verb.trim_end_matches(['.', ':']);
            assert!(lists(VERBS, verb), "{file}: systemctl {call}");
            for option in options {
                assert!(is_option(option), "{file}: {option} in systemctl {call}");
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} calls");
    assert!(!is_option("--value") && !is_option("--wait") && is_option("--now"));
}
