//! The table of ratios, as text and as a page that needs nothing else.

use std::fmt::Write;

/// Median and quartiles.
#[derive(Clone, Copy)]
pub struct Spread {
    /// The first quartile.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// The third quartile.
    pub high: f64,
}

impl Spread {
    /// Of some figures.
    pub fn of(figures: &[f64]) -> Self {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let place = part * (sorted.len() - 1) as f64;
            let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}

/// A supervisor's figures in a workload.
pub struct Row {
    /// The workload.
    pub workload: String,
    /// The supervisor.
    pub supervisor: String,
    /// The figure's unit.
    pub unit: String,
    /// What was measured.
    pub figure: Spread,
    /// Beside native.
    pub to_native: Option<Spread>,
    /// Beside the bare supervisor that does the same.
    pub to_bare: Option<Spread>,
}

/// All rows.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

fn ratio(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |of| format!("{:.2} [{:.2} {:.2}]", of.median, of.low, of.high))
}

fn amount(figure: f64) -> String {
    match figure {
        figure if figure.abs() < 10.0 => format!("{figure:.2}"),
        figure if figure.abs() < 100.0 => format!("{figure:.1}"),
        figure => format!("{figure:.0}"),
    }
}

/// The machine that it was measured on.
fn machine() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {processors} processors", release.trim())
}

impl Report {
    /// Adds a workload's rows.
    pub fn add(&mut self, rows: Vec<Row>) {
        self.rows.extend(rows);
    }

    fn workloads(&self) -> impl Iterator<Item = &[Row]> {
        self.rows.chunk_by(|one, other| one.workload == other.workload)
    }

    /// As text.
    pub fn text(&self) -> String {
        let mut text = format!("{}; medians, [quartiles]\n", machine());
        for rows in self.workloads() {
            let _ = writeln!(text, "\n{:38} {:>10}   {:22} × bare", rows[0].workload, rows[0].unit, "× native");
            for row in rows {
                let (native, bare) = (ratio(row.to_native), ratio(row.to_bare));
                let figure = amount(row.figure.median);
                let line = format!("  {:36} {figure:>10}   {native:22} {bare}", row.supervisor);
                let _ = writeln!(text, "{}", line.trim_end());
            }
        }
        text
    }

    /// As a page.
    pub fn html(&self) -> String {
        let mut page = format!(
            "<!doctype html><meta charset=utf-8><title>sockstrace: benches</title><style>\
             body{{font:15px system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}\
             table{{border-collapse:collapse;width:100%}}td,th{{padding:.15em .6em;text-align:left;white-space:nowrap}}\
             td.n{{text-align:right;font-variant-numeric:tabular-nums}}h2{{font-size:1.1em;margin:1.6em 0 .3em}}\
             rect{{fill:#4a7ab5}}rect.native{{fill:#999}}rect.bare{{fill:#bbb}}rect.strace{{fill:#c58a4a}}\
             line{{stroke:currentColor}}:root{{color-scheme:light dark}}</style>\
             <h1>What sockstrace costs</h1><p>{}. Medians of interleaved runs, with quartiles. Bars: the ratio to \
             native, or the figure where there is none.",
            machine()
        );
        for rows in self.workloads() {
            let _ = write!(
                page,
                "<h2>{}</h2><table><tr><th><th>{}<th>× native<th>× bare<th>",
                rows[0].workload, rows[0].unit
            );
            let shown = |row: &Row| row.to_native.unwrap_or(row.figure);
            let longest = rows.iter().map(|row| shown(row).high).fold(f64::MIN_POSITIVE, f64::max);
            for row in rows {
                let kind = row.supervisor.split('-').next().unwrap_or_default();
                let width = |value: f64| 300.0 * value.max(0.0) / longest;
                let Spread { low, median, high } = shown(row);
                let _ = write!(
                    page,
                    "<tr><td>{}<td class=n>{}<td>{}<td>{}<td><svg width=304 height=14><rect class={kind} y=2 height=10 \
                     width={:.1} /><line x1={:.1} x2={:.1} y1=7 y2=7 /></svg>",
                    row.supervisor,
                    amount(row.figure.median),
                    ratio(row.to_native),
                    ratio(row.to_bare),
                    width(median),
                    width(low),
                    width(high)
                );
            }
            page.push_str("</table>");
        }
        page
    }
}
