//! The proxies of this host: which run, which files they were started with, and what leads from them
//! to the service.
//!
//! Owns how nginx, HAProxy and Apache name their files. It does not know their syntax.
//!
//! Sources: nginx(8), haproxy(1), httpd(8), and the packages of Debian and Enterprise Linux for what
//! is compiled in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::apache::{self, Started};
use super::files::{Files, matching};
use super::host;
use super::passage::{Ours, Passage, Product};
use super::proc::Process;
use super::report::{Finding, Report};
use super::{haproxy, nginx};
use crate::config::Config;

/// How long the files of one proxy may take, to be read and judged.
const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy, and how it was started.
#[derive(Clone)]
struct Installed {
    product: Product,
    /// The words of its command line; none if it does not run.
    args: Vec<String>,
    /// The folder that it was started in.
    cwd: PathBuf,
}

impl Installed {
    /// The value of an option, apart or attached.
    fn options(&self, name: &str) -> Vec<&str> {
        let mut found = Vec::new();
        let mut args = self.args.iter();
        while let Some(arg) = args.next() {
            if arg == name {
                found.extend(args.next().map(|value| &**value));
            } else if let Some(value) = arg.strip_prefix(name) {
                found.push(value);
            }
        }
        found
    }

    fn path(&self, path: &str) -> PathBuf {
        self.cwd.join(path)
    }
}

/// Judges every way to the service through a proxy of this host; returns those through proxies that
/// run.
pub(super) fn judge(
    processes: &[Process],
    ours: &Ours,
    config: &Config,
    report: &mut Report,
) -> Vec<Passage> {
    let mut open = Vec::new();
    for product in [Product::Nginx, Product::Haproxy, Product::Apache] {
        let running = running(product, processes, report);
        // One that is stopped may be started tomorrow.
        let installed = if running.is_empty() {
            vec![Installed { product, args: Vec::new(), cwd: "/".into() }]
        } else {
            running
        };
        for proxy in installed {
            let (given, ours, judged) = (proxy.clone(), ours.clone(), config.clone());
            let look = move || {
                let mut files = Files::default();
                (passages(&given, &ours, &judged, &mut files), files.unread)
            };
            let ((passages, found), unread) = match host::in_time(PATIENCE, look) {
                Ok(seen) => seen,
                Err(error) => {
                    report.skip(format!("the files of {}", product.name()), &error);
                    continue;
                }
            };
            if !proxy.args.is_empty() {
                for (file, why) in unread {
                    report.skip(format!("{} in {}", product.name(), file.display()), &why);
                }
            }
            let mut wrong = found;
            for passage in passages {
                let (found, advice) = passage.judge(config);
                report.advice.extend(advice);
                wrong.extend(found);
                if !proxy.args.is_empty() {
                    open.push(passage);
                }
            }
            report.findings.extend(wrong);
        }
    }
    open
}

/// The proxies of a product that run here: the first of each tree of processes.
fn running(product: Product, processes: &[Process], report: &mut Report) -> Vec<Installed> {
    let names: &[&str] = match product {
        Product::Nginx => &["nginx"],
        Product::Haproxy => &["haproxy"],
        Product::Apache => &["httpd", "apache2"],
    };
    let is_one = |process: &&Process| names.contains(&&*process.name);
    let is_child = |process: &Process| {
        processes.iter().filter(is_one).any(|parent| parent.pid == process.parent)
    };
    let mut found: Vec<Installed> = Vec::new();
    for process in processes.iter().filter(is_one).filter(|process| !is_child(process)) {
        if !process.is_here {
            let what = format!("{} (process {})", product.name(), process.pid);
            report.skip(what, "it runs in a container, whose files are not these");
            continue;
        }
        let args = match product {
            // "nginx: master process /usr/sbin/nginx -c /etc/nginx/nginx.conf"
            Product::Nginx => {
                let title = process.args.join(" ");
                let command = title.split_once("process ").map_or(&*title, |(_, command)| command);
                command.split_whitespace().map(str::to_owned).collect()
            }
            _ => process.args.clone(),
        };
        let cwd = process.cwd.clone().unwrap_or_else(|| PathBuf::from("/"));
        if !found.iter().any(|it| it.args == args && it.cwd == cwd) {
            found.push(Installed { product, args, cwd });
        }
    }
    found
}

fn passages(
    proxy: &Installed,
    ours: &Ours,
    config: &Config,
    files: &mut Files,
) -> (Vec<Passage>, Vec<Finding>) {
    match proxy.product {
        Product::Nginx => {
            let prefix = proxy.options("-p").pop().map(|prefix| proxy.path(prefix));
            let named = proxy.options("-c").pop().unwrap_or("/etc/nginx/nginx.conf");
            let main = prefix.unwrap_or_else(|| proxy.cwd.clone()).join(named);
            let nodes = nginx::read(&main, files);
            (nginx::passages(&nodes, version(), ours, config), Vec::new())
        }
        Product::Haproxy => {
            let named = proxy.options("-f");
            let all = if named.is_empty() { vec!["/etc/haproxy/haproxy.cfg"] } else { named };
            let paths: Vec<_> =
                all.into_iter().flat_map(|path| haproxy_files(&proxy.path(path))).collect();
            haproxy::passages(&haproxy::read(&paths, files), ours)
        }
        Product::Apache => {
            let (root, main) = apache_files(proxy);
            let defined = proxy.options("-D").into_iter().map(str::to_owned).collect();
            let nodes = apache::read(&main, &Started { root, defined }, files);
            apache::passages(&nodes, ours, config)
        }
    }
}

/// The files of HAProxy's `-f`: of a folder, those that end in `.cfg`.
fn haproxy_files(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() { matching(&path.join("*.cfg")) } else { vec![path.to_owned()] }
}

/// The `ServerRoot` that is compiled in, and the main file.
fn apache_files(proxy: &Installed) -> (PathBuf, PathBuf) {
    let debian = Path::new("/etc/apache2");
    let (root, main) = if debian.is_dir() {
        (debian, "apache2.conf")
    } else {
        (Path::new("/etc/httpd"), "conf/httpd.conf")
    };
    let root = proxy.options("-d").pop().map_or(root.to_owned(), |root| proxy.path(root));
    let main = root.join(proxy.options("-f").pop().unwrap_or(main));
    (root, main)
}

/// The version of the nginx in PATH: what it does by default depends on it.
fn version() -> Option<[u32; 3]> {
    let answer = host::run("nginx", &["-v"]).ok()?;
    read_version(&answer.text)
}

fn read_version(text: &str) -> Option<[u32; 3]> {
    let version = text.split("nginx/").nth(1)?;
    let mut numbers = version.split(|char: char| !char.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_those_of_the_command_line() {
        let process = |name: &str, pid, parent, args: &[&str]| Process {
            pid,
            parent,
            name: name.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            cwd: Some("/x".into()),
            is_here: true,
        };
        let all = [
            process("nginx", 10, 1, &["nginx: master process nginx -p . -c a.conf"]),
            process("nginx", 11, 10, &["nginx: worker process"]),
            process("haproxy", 20, 1, &["haproxy", "-Ws", "-f", "a.cfg", "-f/b.cfg"]),
            process("haproxy", 21, 20, &["haproxy", "-Ws", "-f", "a.cfg", "-f/b.cfg"]),
            process("bash", 30, 1, &["nginx"]),
        ];
        let mut report = Report::default();
        let nginx = running(Product::Nginx, &all, &mut report);
        assert_eq!((nginx.len(), nginx[0].options("-c")), (1, vec!["a.conf"]));
        let haproxy = running(Product::Haproxy, &all, &mut report);
        assert_eq!((haproxy.len(), haproxy[0].options("-f")), (1, vec!["a.cfg", "/b.cfg"]));
        let elsewhere = [Process { is_here: false, ..all[0].clone() }];
        assert!(running(Product::Nginx, &elsewhere, &mut report).is_empty());
        assert_eq!(report.unchecked.len(), 1);
    }

    #[test]
    fn a_version_is_read_as_nginx_prints_it() {
        assert_eq!(read_version("nginx version: nginx/1.22.1\n"), Some([1, 22, 1]));
        assert_eq!(read_version("nginx version: nginx/1.29.7 (x)"), Some([1, 29, 7]));
        assert_eq!(read_version("tengine"), None);
    }
}
