//! SECURITY.md: what it refers to is there, and what it supports is this version.

use std::fs;

use super::shipped;

fn page() -> String {
    fs::read_to_string(shipped("SECURITY.md")).expect("it is shipped")
}

/// What follows the # in a link to a heading.
fn anchor(heading: &str) -> String {
    let kept = |sign: &char| sign.is_alphanumeric() || " -_".contains(*sign);
    heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

#[test]
fn every_promise_leads_to_what_documents_it() {
    let page = page();
    let links = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let mut found = Vec::new();
    for link in links {
        let (path, heading) = link.split_once('#').unwrap_or((link, ""));
        let path = if path.is_empty() { "SECURITY.md" } else { path };
        let text =
            fs::read_to_string(shipped(path)).unwrap_or_else(|error| panic!("{link}: {error}"));
        let headings = text.lines().filter(|line| line.starts_with('#'));
        let mut anchors = headings.map(|line| anchor(line.trim_start_matches('#').trim_start()));
        assert!(heading.is_empty() || anchors.any(|it| it == heading), "no such heading: {link}");
        found.push(link);
    }
    for promised in [
        "docs/wsecho.toml.5",
        "docs/wsecho-probe.1",
        "docs/operations.md#exit-codes",
        "docs/operations.md#what-to-watch",
        "docs/operations.md#the-log",
        "docs/operations.md#info",
        "docs/probe.schema.json",
        "docs/doctor.schema.json",
        "docs/install.md#verify-what-you-installed",
    ] {
        assert!(found.contains(&promised), "it says nothing about {promised}");
    }
}

#[test]
fn the_newest_supported_version_is_this_one() {
    let (minor, _) = env!("CARGO_PKG_VERSION").rsplit_once('.').expect("three numbers");
    let page = page();
    let newest = page.lines().skip_while(|line| *line != "| version | fixes |").nth(2);
    assert_eq!(newest, Some(format!("| {minor} | yes |").as_str()));
}

#[test]
fn readme_and_install_lead_to_it() {
    for (file, link) in [("README.md", "](SECURITY.md)"), ("docs/install.md", "](../SECURITY.md#")]
    {
        assert!(fs::read_to_string(shipped(file)).unwrap().contains(link), "{file}");
    }
}
