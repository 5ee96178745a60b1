//! The graph of a run: four panels over one time axis, as SVG.

use crate::samples::{OfService, Samples};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const PANEL: f64 = 120.0;
const GAP: f64 = 44.0;
/// The second one is dashed, so that they can be told apart without colours.
const STROKES: [&str; 2] = ["#0b6fb8", "#c2410c\" stroke-dasharray=\"5 2"];

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

pub fn draw(samples: &Samples) -> String {
    let end = samples.all().last().map_or(1.0, |it| (it.second as f64).max(1.0));
    let per_service = |figure: fn(&OfService) -> f64| -> Vec<Line> {
        let names = samples.names().into_iter().enumerate();
        names
            .map(|(index, name)| Line {
                name: format!("the service that {name}"),
                points: samples.of(index, figure),
            })
            .collect()
    };
    let all = |points| vec![Line { name: "both services".to_owned(), points }];
    let sessions = samples.all().iter().map(|it| (it.second as f64, it.sessions)).collect();
    let panels = [
        ("Resident memory, MiB", per_service(|it| it.memory)),
        ("Descriptors", per_service(|it| it.descriptors)),
        ("Open sessions", all(sessions)),
        ("Echoes per second, every byte checked", all(samples.rates())),
    ];

    let height = TOP + panels.len() as f64 * (PANEL + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Memory, descriptors, sessions and echoes of a soak over time</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (index, (title, lines)) in panels.iter().enumerate() {
        let top = TOP + index as f64 * (PANEL + GAP);
        panel(&mut svg, samples, end, top, title, lines);
    }
    svg + "</svg>\n"
}

fn panel(svg: &mut String, samples: &Samples, end: f64, top: f64, title: &str, lines: &[Line]) {
    let most = lines.iter().flat_map(|it| &it.points).map(|it| it.1).fold(1.0, f64::max);
    let step = nice(most / 3.0);
    let most = (most / step).ceil() * step;
    let x = |second: f64| LEFT + second / end * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| top + PANEL * (1.0 - value / most);

    let mut add = |element: String| *svg += &(element + "\n");
    add(format!("<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}</text>", top - 8.0));
    for mark in 0..=4 {
        let value = f64::from(mark) * step;
        if value > most {
            break;
        }
        add(format!(
            "<path d=\"M{LEFT} {0:.1}H{1}\" stroke=\"#ddd\"/>\
             <text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\" fill=\"#555\">{value}</text>",
            y(value),
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(value) + 4.0
        ));
    }
    for minute in (0..60).take_while(|minute| f64::from(*minute) * 60.0 <= end) {
        add(format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{minute} min</text>",
            x(f64::from(minute) * 60.0),
            top + PANEL + 16.0
        ));
    }
    // A line for each second in which a restart began.
    for pair in samples.all().windows(2) {
        let restarts = |index: usize| {
            pair[index].services.iter().filter_map(|it| it.1).map(|it| it.restarts).max()
        };
        if restarts(1) > restarts(0) {
            add(format!(
                "<path d=\"M{:.1} {top}V{}\" stroke=\"#999\" stroke-dasharray=\"2 3\"/>",
                x(pair[1].second as f64),
                top + PANEL
            ));
        }
    }
    let mut right = WIDTH - RIGHT;
    for (line, stroke) in lines.iter().zip(STROKES) {
        let points: Vec<_> =
            line.points.iter().map(|it| format!("{:.1},{:.1}", x(it.0), y(it.1))).collect();
        add(format!(
            "<polyline fill=\"none\" stroke-width=\"1.5\" stroke=\"{stroke}\" points=\"{}\"/>",
            points.join(" ")
        ));
        if lines.len() > 1 {
            add(format!(
                "<text x=\"{right}\" y=\"{0}\" text-anchor=\"end\" fill=\"#333\">{1}</text>\
                 <path d=\"M{2} {3}h24\" stroke-width=\"2\" stroke=\"{stroke}\"/>",
                top - 8.0,
                line.name,
                right - 178.0,
                top - 12.0
            ));
            right -= 210.0;
        }
    }
}

/// The next round number above: 1, 2 or 5 times a power of ten.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    power * factors.into_iter().find(|it| it * power >= value).unwrap_or(10.0)
}
