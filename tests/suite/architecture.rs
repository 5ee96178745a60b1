//! docs/architecture.md shows the tree as it is, and no module imports against its order.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of the first fenced block below a heading of docs/architecture.md.
fn block(heading: &str) -> Vec<String> {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let (_, section) = page.split_once(&format!("\n{heading}\n")).expect("the heading");
    let block = section.split("```").nth(1).expect("a fenced block");
    block.lines().skip(1).map(str::to_owned).collect()
}

/// Every Rust file below src, relative to it.
fn sources() -> BTreeSet<PathBuf> {
    fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.insert(path.strip_prefix(root().join("src")).unwrap().to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&root().join("src"), &mut found);
    found
}

/// The modules in the order of their dependencies, from docs/architecture.md.
fn order() -> Vec<String> {
    let lines = block("## The order");
    lines.iter().flat_map(|line| line.split_whitespace().skip(1)).map(str::to_owned).collect()
}

/// The path of the module in a file: `ws::engine::out` for `ws/engine/out.rs`.
fn module(file: &Path) -> String {
    let path = file.with_extension("");
    let names: Vec<_> = path.iter().map(|name| name.to_str().unwrap()).collect();
    names.join("::").trim_end_matches("::mod").to_owned()
}

/// The place of a module in the order; `None` for a room as a whole, and for the map in lib.rs.
fn rank(order: &[String], module: &str) -> Option<usize> {
    order.iter().position(|name| {
        module.strip_prefix(&**name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    })
}

/// What a file imports from the crate: each `crate::` path, those in braces taken apart.
fn imports(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join(" ");
    let mut found = Vec::new();
    for path in code.split("crate::").skip(1) {
        let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        let (name, rest) = path.split_at(end.unwrap_or(path.len()));
        match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((inner, _)) => {
                found.extend(inner.split(',').map(|inner| format!("{name}{}", inner.trim())));
            }
            None => found.push(name.to_owned()),
        }
    }
    found
}

/// But a room's `mod.rs`, which only lists what is in it.
#[test]
fn the_map_names_every_file_once_and_no_other() {
    let mut named: Vec<PathBuf> = block("## The map")
        .iter()
        .filter_map(|line| line.split_whitespace().next())
        .map(PathBuf::from)
        .filter(|name| name.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    named.sort();
    let files = sources().into_iter().filter(|file| !file.ends_with("mod.rs"));
    assert_eq!(named, files.collect::<Vec<_>>());
}

#[test]
fn every_module_imports_only_from_those_before_it() {
    let order = order();
    for file in sources() {
        let text = fs::read_to_string(root().join("src").join(&file)).unwrap();
        let module = module(&file);
        let Some(own) = rank(&order, &module) else {
            let map = ["lib", "http", "net", "ops", "proxy", "ws"].contains(&module.as_str());
            assert!(map && imports(&text).is_empty(), "{module} has no place in the order");
            continue;
        };
        for import in imports(&text) {
            let other = rank(&order, &import);
            assert!(other.is_some_and(|other| other <= own), "{module} imports crate::{import}");
        }
    }
}

#[test]
fn within_a_room_every_module_imports_only_from_those_declared_before_it() {
    for file in sources().iter().filter(|file| file.ends_with("mod.rs")) {
        let room = fs::read_to_string(root().join("src").join(file)).unwrap();
        let declared: Vec<&str> = room
            .lines()
            .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "))
            .map(|name| name.trim_end_matches(';'))
            .collect();
        for (index, name) in declared.iter().enumerate() {
            let path = root().join("src").join(file).with_file_name(format!("{name}.rs"));
            let text = fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            for import in code.split("super::").skip(1) {
                let later = declared[index..].iter().find(|later| {
                    import.strip_prefix(**later).is_some_and(|rest| rest.starts_with([':', ';']))
                });
                assert_eq!(later, None, "{name} of {}", file.display());
            }
        }
    }
}
