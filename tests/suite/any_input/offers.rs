//! Arbitrary offers of extensions, written in every way that the grammar allows, and arbitrary bytes.

use arbitrary::{Result, Unstructured};
use wsecho::ws::deflate::offer::Agreement;

const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const NAMES: [&str; 5] = [
    "server_no_context_takeover",
    "client_no_context_takeover",
    "server_max_window_bits",
    "client_max_window_bits",
    "unknown",
];
const VALUES: [&str; 8] = ["15", "12", "10", "8", "16", "09", "x", ",permessage-deflate,\"\\"];

/// A parameter: its name, its value, and whether that is to be quoted even if it need not be.
type Parameter = (&'static str, Option<&'static str>, bool);

/// Any offers: the answer is that to the first acceptable one, however they are written.
pub fn any_offers(data: &[u8]) {
    // Once the bytes have run out, every choice is the first one, so this cannot fail.
    let _ = try_any_offers(&mut Unstructured::new(data));
    let answers = (9..15).map(limited).chain([ANSWER.to_owned(), full()]);
    if let Some(found) = Agreement::find([data]) {
        assert!(answers.into_iter().any(|answer| answer == found.to_string()), "{found}");
    }
}

fn try_any_offers(u: &mut Unstructured<'_>) -> Result<()> {
    let mut lines = vec![String::new()];
    let mut expected = None;
    for _ in 0..u.int_in_range(1..=4)? {
        let name = if u.ratio(1, 4)? { "x-unknown" } else { "permessage-deflate" };
        let mut parameters: Vec<Parameter> = Vec::new();
        for _ in 0..u.int_in_range(0..=3)? {
            let value = if u.arbitrary()? { Some(*u.choose(&VALUES)?) } else { None };
            parameters.push((*u.choose(&NAMES)?, value, u.arbitrary()?));
        }
        if name == "permessage-deflate" {
            expected = expected.or_else(|| answer(&parameters));
        }
        match u.int_in_range(0..=2)? {
            0 => lines.push(String::new()),
            1 => lines.last_mut().expect("there is one").push_str(" ,, "),
            _ => lines.last_mut().expect("there is one").push(','),
        }
        let line = lines.last_mut().expect("there is one");
        write(u, line, name, &parameters)?;
    }
    let found = Agreement::find(lines.iter().map(String::as_bytes));
    assert_eq!(found.map(|found| found.to_string()), expected, "{lines:?}");
    Ok(())
}

/// The answer to one offer, by the words of RFC 7692, section 7.1.
fn answer(parameters: &[Parameter]) -> Option<String> {
    let find = |index: usize| parameters.iter().find(|(name, ..)| *name == NAMES[index]);
    for (index, (name, value, _)) in parameters.iter().enumerate() {
        let has_place = match *name {
            "server_max_window_bits" => matches!(value, Some("15" | "12" | "10" | "8")),
            "client_max_window_bits" => matches!(value, None | Some("15" | "12" | "10" | "8")),
            "unknown" => false,
            _ => value.is_none(),
        };
        let again = parameters[..index].iter().any(|(earlier, ..)| earlier == name);
        if !has_place || again {
            return None;
        }
    }
    let number = |value: &str| value.parse::<u8>().expect("it was checked");
    match find(2).map(|(_, value, _)| number(value.expect("it was checked"))) {
        None => Some(ANSWER.to_owned()),
        Some(15) => Some(full()),
        Some(bits) => {
            let (_, value, _) = find(3)?;
            let bits = bits.min(value.map_or(15, number));
            (bits > 8).then(|| limited(bits))
        }
    }
}

fn full() -> String {
    format!("{ANSWER}; server_max_window_bits=15")
}

fn limited(bits: u8) -> String {
    format!("{ANSWER}; server_max_window_bits={bits}; client_max_window_bits={bits}")
}

fn write(
    u: &mut Unstructured<'_>,
    line: &mut String,
    name: &str,
    parameters: &[Parameter],
) -> Result<()> {
    let mut put = |text: &str| -> Result<()> {
        line.push_str(u.choose(&["", " ", "\t", "  "])?);
        line.push_str(text);
        Ok(())
    };
    put(name)?;
    for (name, value, quoted) in parameters {
        put(";")?;
        put(name)?;
        if let Some(value) = value {
            put("=")?;
            if *quoted || value.contains(',') {
                let escaped = value.replace('\\', r"\\").replace('"', r#"\""#);
                put(&format!("\"{escaped}\""))?;
            } else {
                put(value)?;
            }
        }
    }
    put("")
}
