//! A configuration with named places, and what they are filled with.
//!
//! A place is `{{name}}`. Its line is written once for each of its values, so not at all where it
//! has none. By convention a name that ends in `?` only decides whether the line is written.

/// The values of a place.
pub(super) type Values = Vec<String>;

/// One value.
pub(super) fn text(value: impl Into<String>) -> Values {
    vec![value.into()]
}

/// Keeps the line, or leaves it out.
pub(super) fn when(keep: bool) -> Values {
    if keep { text("") } else { Vec::new() }
}

/// Fills every place of a template. What it is filled with is not searched for places: it may come
/// from the configuration.
///
/// # Panics
/// When the template has a place that is not among `places`, or the other way round. Both are part
/// of the program, so a test of the template finds out.
pub(super) fn fill(template: &str, places: &[(&str, Values)]) -> String {
    for (name, _) in places {
        assert!(template.contains(&["{{", name, "}}"].concat()), "the template has no {name:?}");
    }
    let mut filled = String::new();
    for line in template.lines() {
        let mut begun = vec![String::new()];
        let mut rest = line;
        while let Some((before, name, after)) = next_place(rest) {
            let values = places.iter().find(|place| place.0 == name).map(|place| &place.1);
            let values = values.unwrap_or_else(|| panic!("nothing fills {name:?}"));
            let longer = |line: &String| -> Values {
                values.iter().map(|value| [line, before, value].concat()).collect()
            };
            begun = begun.iter().flat_map(longer).collect();
            rest = after;
        }
        for line in begun {
            filled.extend([&line, rest, "\n"]);
        }
    }
    filled
}

/// What precedes the first place, its name, and what follows it.
fn next_place(line: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = line.split_once("{{")?;
    let (name, after) = rest.split_once("}}")?;
    Some((before, name, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &str, a: &[&str]) -> String {
        fill(template, &[("a", a.iter().copied().map(String::from).collect())])
    }

    #[test]
    fn a_line_is_written_once_for_each_value() {
        assert_eq!(filled("x\n  {{a}};\ny", &[]), "x\ny\n");
        assert_eq!(filled("x\n  {{a}};\ny", &["1"]), "x\n  1;\ny\n");
        assert_eq!(filled("x\n  {{a}};\ny", &["1", "2"]), "x\n  1;\n  2;\ny\n");
        let both = fill("{{a}}-{{b}}", &[("a", vec!["1".into(), "2".into()]), ("b", text("3"))]);
        assert_eq!(both, "1-3\n2-3\n");
    }

    #[test]
    fn a_condition_keeps_a_line_or_leaves_it_out() {
        for (keep, expected) in [(true, "# x\ny\n"), (false, "y\n")] {
            assert_eq!(fill("{{a?}}# x\ny\n", &[("a?", when(keep))]), expected);
        }
    }

    #[test]
    fn a_value_is_not_searched_for_places() {
        assert_eq!(filled("{{a}}", &["{{a}}{{b}}"]), "{{a}}{{b}}\n");
    }

    #[test]
    #[should_panic(expected = "nothing fills \"b\"")]
    fn a_place_that_nothing_fills_is_found_out() {
        filled("{{a}}\n{{b}}", &[]);
    }

    #[test]
    #[should_panic(expected = "the template has no \"a\"")]
    fn a_value_without_a_place_is_found_out() {
        filled("x", &["1"]);
    }
}
