//! A chart of ratios as SVG: this file owns its layout and colours.

use std::fmt::Write;

use crate::report::Spread;

/// The left and the right end of the scale, in pixels.
const SCALE: (f64, f64) = (190.0, 640.0);
const WIDTH: f64 = 720.0;
const ROW: f64 = 24.0;
/// The title of a panel, and the space above it.
const TITLE: f64 = 48.0;

/// One shape of traffic.
pub struct Panel {
    pub title: &'static str,
    /// The name of a server, and its CPU time as a multiple of one worker's.
    pub rows: Vec<(&'static str, Spread)>,
}

/// Draws panels below each other on one scale: a line from the minimum to the maximum, a dot at the
/// median, and a dashed line where one worker is.
pub fn draw(panels: &[Panel]) -> String {
    let spreads = || panels.iter().flat_map(|panel| &panel.rows).map(|(_, spread)| spread);
    let low = spreads().map(|spread| spread.min).fold(0.9, f64::min);
    let high = spreads().map(|spread| spread.max).fold(1.1, f64::max);
    let x = |ratio: f64| SCALE.0 + (ratio - low) / (high - low) * (SCALE.1 - SCALE.0);

    let (mut body, mut y) = (String::new(), 0.0);
    for Panel { title, rows } in panels {
        y += TITLE;
        let (top, one) = (y - ROW / 2.0, x(1.0));
        let _ = writeln!(body, r#"<text class="title" x="8" y="{:.0}">{title}</text>"#, y - 16.0);
        for (name, Spread { min, median, max }) in rows {
            let (text, from, to, dot) = (y + 5.0, x(*min), x(*max), x(*median));
            let _ = writeln!(
                body,
                r#"<text x="8" y="{text:.0}">{name}</text>
<line class="range" x1="{from:.1}" y1="{y:.0}" x2="{to:.1}" y2="{y:.0}"/>
<circle cx="{dot:.1}" cy="{y:.0}" r="5"/>
<text class="figure" x="{:.0}" y="{text:.0}">{median:.2}</text>"#,
                WIDTH - 8.0,
            );
            y += ROW;
        }
        let bottom = y - ROW / 2.0;
        let _ = writeln!(
            body,
            r#"<line class="one" x1="{one:.1}" y1="{top:.0}" x2="{one:.1}" y2="{bottom:.0}"/>"#
        );
    }
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">
<title>CPU time per message, as a multiple of one worker's: minimum, median and maximum</title>
<style>
svg {{ font: 14px system-ui, sans-serif; fill: #1f2328; background: #fff }}
.title {{ font-weight: 600 }}
.figure {{ text-anchor: end; font-variant-numeric: tabular-nums }}
.range {{ stroke: #0969da; stroke-width: 3; stroke-linecap: round }}
circle {{ fill: #0969da }}
.one {{ stroke: #59636e; stroke-dasharray: 3 3 }}
@media (prefers-color-scheme: dark) {{
svg {{ fill: #f0f6fc; background: #0d1117 }}
.range {{ stroke: #4493f8 }}
circle {{ fill: #4493f8 }}
.one {{ stroke: #9198a1 }}
}}
</style>
{body}</svg>
"#,
        height = y + 8.0,
    )
}
