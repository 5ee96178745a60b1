//! Files and texts that could hold up `wsecho doctor`, fill its memory, or have it tell a secret.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wsecho::config::Config;
use wsecho::doctor::files::Files;
use wsecho::doctor::passage::{Ours, Passage};
use wsecho::doctor::report::Report;
use wsecho::doctor::unit::Unit;
use wsecho::doctor::{apache, haproxy, nginx, proc, unit};
use wsecho::proxy::snippet::Product;

use super::passages;
use crate::service::PATIENCE;

const SERVER: &str = "http { server { location / { proxy_pass http://127.0.0.1:8888; } } }";

/// Reads the files that a main file of nginx includes, which must come to an end.
fn read(main: &Path) -> (Vec<Passage>, Files) {
    let (tell, told) = channel();
    let main = main.to_path_buf();
    thread::spawn(move || {
        let config = Config::default();
        let mut files = Files::default();
        let nodes = nginx::read(&main, &mut files);
        let ours = Ours { addrs: config.boot.bind.clone(), hosts: Vec::new() };
        let _ = tell.send((nginx::passages(&nodes, None, &ours, &config), files));
    });
    told.recv_timeout(PATIENCE).expect("it ends")
}

fn unread(files: &Files) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    files.unread.iter().map(|(path, why)| format!("{}: {why}", name(path))).collect()
}

#[test]
fn files_that_have_no_end_or_are_none_are_told_and_the_rest_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    symlink(at("loop"), at("loop")).unwrap();
    symlink("/dev/zero", at("zero")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    File::create(at("huge")).unwrap().set_len(1 << 40).unwrap();
    fs::write(at("bytes"), [0xff, 0, b'{', 0xfe, b';', 0]).unwrap();
    let main = at("nginx.conf");
    let names =
        ["fifo", "loop", "zero", "dangling", "folder", "huge", "bytes", "nginx.conf", "no*"];
    let includes = names.map(|name| format!("include {name};\n")).concat();
    fs::write(&main, format!("{includes}{SERVER}")).unwrap();
    let (found, files) = read(&main);
    assert_eq!(found.last().map(|it| it.place.line), Some(10));
    let told = unread(&files);
    for name in &names[..5] {
        assert!(told.iter().any(|it| it.starts_with(&format!("{name}: "))), "{name} in {told:?}");
    }
    assert!(told.contains(&"fifo: not a regular file".to_owned()), "{told:?}");
}

#[test]
fn ten_thousand_includes_and_includes_that_multiply_come_to_an_end() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..10_100 {
        fs::write(folder.path().join(format!("{number}.conf")), "include *.conf;\n").unwrap();
    }
    let main = folder.path().join("nginx");
    fs::write(&main, format!("include *.conf;\n{SERVER}")).unwrap();
    let (found, files) = read(&main);
    assert_eq!(found.len(), 1);
    let told = unread(&files);
    assert!(told.last().unwrap().ends_with("the configuration is larger than what is read"));
    assert!(told.len() <= 20, "{told:?}");
    // Every process and every file that it has open.
    fs::write(&main, format!("include /proc/*/task/*/fd*/*;\n{SERVER}")).unwrap();
    assert_eq!(read(&main).0.len(), 1);
}

#[test]
fn haproxy_and_apache_read_no_such_files_either() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    symlink("/dev/zero", at("zero")).unwrap();
    let main = at("main");
    fs::write(
        &main,
        "Include fifo\nInclude zero\nInclude main\nProxyPass / ws://127.0.0.1:8888/\n",
    )
    .unwrap();
    let (tell, told) = channel();
    let (root, paths) = (folder.path().to_path_buf(), [at("fifo"), at("zero"), main.clone()]);
    thread::spawn(move || {
        let mut files = [Files::default(), Files::default()];
        let started = apache::Started { root, defined: Vec::new() };
        let nodes = apache::read(&main, &started, &mut files[0]);
        let sections = haproxy::read(&paths, &mut files[1]);
        assert!(sections.is_empty());
        let _ = tell.send((nodes.len(), files));
    });
    let (nodes, files) = told.recv_timeout(PATIENCE).expect("it ends");
    assert!(nodes > 0);
    for files in files {
        let told = unread(&files);
        assert!(told.iter().any(|it| it.starts_with("fifo: not a regular file")), "{told:?}");
        assert!(told.iter().any(|it| it.starts_with("zero: not a regular file")), "{told:?}");
    }
}

/// Texts that grow with a number, each with what reads it.
fn texts(count: usize) -> Vec<(&'static str, Product, String)> {
    let each = |line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let ours = "proxy_pass http://127.0.0.1:8888;";
    let in_server = |text: String| format!("http {{ server {{ {text} }} }}");
    let upstreams = each(&|n| format!("upstream u{n} {{ server a:{n}; }}"));
    let to_them = each(&|n| format!("location /{n} {{ proxy_pass http://u{n}; }}"));
    let chain = each(&|n| format!("set $a{n} \"$a{} $a{}\";\n", n + 1, n + 2));
    let map = each(&|n| format!("{n} $a{n}; "));
    let front = each(&|n| format!("use_backend b{n} if a\nhttp-request del-header upgrade\n"));
    let back = each(&|n| format!("backend b{n}\nmode http\nserver s 127.0.0.1:8888\n"));
    vec![
        ("open", Product::Nginx, "a {".repeat(count)),
        ("close", Product::Nginx, "}".repeat(count)),
        ("empty", Product::Nginx, "a;".repeat(count)),
        ("quotes", Product::Nginx, "\"\\".repeat(count)),
        ("bytes", Product::Nginx, "\0\u{fffd}${".repeat(count)),
        ("locations", Product::Nginx, in_server(each(&|n| format!("location /{n} {{ {ours} }}")))),
        ("same", Product::Nginx, in_server(format!("location /a {{ {ours} }}").repeat(count))),
        ("regex", Product::Nginx, in_server(each(&|n| format!("location ~ ^/{n} {{ {ours} }}")))),
        ("upstreams", Product::Nginx, format!("http {{ {upstreams} server {{ {to_them} }} }}")),
        (
            "variables",
            Product::Nginx,
            in_server(format!("{chain} location / {{ proxy_pass http://$a0; }}")),
        ),
        (
            "map",
            Product::Nginx,
            format!(
                "http {{ map $b $a {{ {map} }} server {{ location / {{ {ours} proxy_set_header \
                 Connection $a; }} }} }}"
            ),
        ),
        (
            "streams",
            Product::Nginx,
            format!("stream {{ {} }}", "server { proxy_pass 127.0.0.1:8888; }".repeat(count)),
        ),
        ("sections", Product::Haproxy, format!("frontend f\nmode http\n{front}{back}")),
        ("escapes", Product::Haproxy, "\\\"'".repeat(count)),
        ("defaults", Product::Haproxy, each(&|n| format!("defaults d{} from d{n}\n", n + 1))),
        ("continued", Product::Apache, "\\\n".repeat(count)),
        ("nested", Product::Apache, "<a>\n".repeat(count)),
        ("rules", Product::Apache, each(&|n| format!("ProxyPass /{n} ws://127.0.0.1:8888/\n"))),
        (
            "hosts",
            Product::Apache,
            "<VirtualHost *>\nProxyPass / ws://a/\n</VirtualHost>\n".repeat(count),
        ),
        ("words", Product::Apache, "a ".repeat(count)),
    ]
}

/// The processor time of this thread: a busy machine adds none.
fn spent() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("it is positive")
}

#[test]
fn what_grows_sixteenfold_takes_no_time_that_is_squared() {
    let config = Config::default();
    let cost = |product: Product, text: &str| {
        let begun = spent();
        for passage in passages(product, text, &config) {
            let _ = passage.judge(&config);
        }
        spent().saturating_sub(begun)
    };
    for (few, many) in texts(250).into_iter().zip(texts(4_000)) {
        let (name, product, text) = few;
        // Linear time is 16 times as much, quadratic 256 times, however often it is measured.
        let is_linear = |_| {
            let (few, many) = (cost(product, &text), cost(product, &many.2));
            many < 64 * few + Duration::from_millis(100)
        };
        assert!((0..5).any(is_linear), "{name}");
    }
}

#[test]
fn a_million_lines_of_tables_and_units_come_to_an_end() {
    let mut tables = String::new();
    for number in 0..1_000_000 {
        let _ = writeln!(tables, "{number}: 0100007F:22B8 00000000:0000 0A 0 0 0 0 0 {number} 1");
    }
    assert_eq!(proc::in_tcp_table(&tables).len(), 999_999);
    assert!(proc::in_unix_table(&tables).is_empty());
    let units = "Id=wsecho@a.service\nLoadState=loaded\nActiveState=failed\n\n".repeat(250_000);
    let mut report = Report::default();
    let units = Unit::all(&units);
    unit::judge(&units, |_| None, &mut report);
    assert_eq!(report.findings.len(), 250_000);
}

#[test]
fn no_secret_of_a_proxys_configuration_is_told() {
    const SECRET: &str = "s3cr3tw0rd";
    let config = wsecho::config::parse("origins = \"same-host\"").unwrap();
    let nginx = format!(
        "http {{ map $http_x $y {{ default {SECRET}; }} server {{ listen 80; auth_basic_user_file \
         /etc/{SECRET}; ssl_certificate_key /etc/{SECRET}.key; ssl_password_file {SECRET};
         location /socket {{ proxy_pass http://127.0.0.1:8888/x?access_token={SECRET}; \
         proxy_set_header Authorization \"Basic {SECRET}\"; proxy_set_header Connection $y; }}
         location /echo {{ proxy_pass http://me:{SECRET}@127.0.0.1:8888; }}
         location /c {{ proxy_pass http://127.0.0.1:8888; proxy_set_header Connection {SECRET}; }} }} }}"
    );
    let haproxy = format!(
        "userlist u\nuser a insecure-password {SECRET}\nfrontend f\nbind :80 ssl crt /{SECRET}.pem alpn \
         h2\nmode http\nstats auth a:{SECRET}\nhttp-request set-header Upgrade {SECRET}\n\
         default_backend b\nbackend b\nmode http\nserver s 127.0.0.1:8888 cookie {SECRET}\n"
    );
    let apache = format!(
        "Define KEY {SECRET}\nSSLCertificateKeyFile /{SECRET}\nAuthUserFile /{SECRET}\n\
         RequestHeader set Authorization \"Basic ${{KEY}}\"\n\
         ProxyPass /socket http://127.0.0.1:8888/echo2?token=${{KEY}}\n\
         ProxyPass /echo http://me:{SECRET}@127.0.0.1:8888/\n"
    );
    for (product, text) in
        [(Product::Nginx, nginx), (Product::Haproxy, haproxy), (Product::Apache, apache)]
    {
        let mut report = Report::default();
        if product == Product::Haproxy {
            let mut sections = Vec::new();
            haproxy::parse(&text, Path::new("x"), &mut sections);
            let ours = Ours { addrs: config.boot.bind.clone(), hosts: Vec::new() };
            report.findings.extend(haproxy::passages(&sections, &ours).1);
        }
        for passage in passages(product, &text, &config) {
            let (found, advice) = passage.judge(&config);
            report.findings.extend(found);
            report.advice.extend(advice);
        }
        assert!(!report.findings.is_empty(), "{product:?}");
        for told in [report.terminal(), report.json()] {
            assert!(!told.contains(SECRET), "{product:?}: {told}");
        }
    }
}
