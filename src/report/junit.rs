//! `--junit`: each distinct leak is a failed test, so that CI systems list them; a stream without leaks is
//! one test that passed, and one that can't be trusted is a test in error.

use super::xml::xml;
use super::{End, Report, clock};
use std::io::{self, Write};

/// JUnit XML, as Jenkins, GitLab and others read it.
pub(super) struct Junit(Box<dyn Write>);

impl Junit {
    pub(super) fn new(out: Box<dyn Write>) -> Self {
        Self(out)
    }
}

impl Report for Junit {
    fn finish(&mut self, end: &End<'_>) -> io::Result<()> {
        let out = &mut self.0;
        let leaks = end.leaks.list();
        let (failures, errors) = (leaks.len(), usize::from(!end.warnings.is_empty()));
        let passed = usize::from(failures == 0);
        let seconds = end.totals.duration() / 1_000_000_000;
        let millis = end.totals.duration() / 1_000_000 % 1000;
        let counts = format!(
            "tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{seconds}.{millis:03}\"",
            failures.saturating_add(errors).saturating_add(passed)
        );
        writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
        writeln!(out, "<testsuites name=\"sockstrace\" {counts}>")?;
        write!(out, "  <testsuite name=\"sockstrace\" {counts} skipped=\"0\"")?;
        if let Some(first) = end.totals.first {
            // xs:dateTime without a zone, which is how the schemas that are about have it.
            write!(out, " timestamp=\"{}\"", clock(first).split('.').next().unwrap_or_default())?;
        }
        writeln!(out, ">")?;
        if passed > 0 {
            let calls = end.totals.calls();
            writeln!(out, "    <testcase classname=\"sockstrace\" name=\"no leak in {calls} calls\" time=\"0\"/>")?;
        }
        for leak in leaks {
            let blame = leak.blame();
            write!(out, "    <testcase classname=\"sockstrace.{}\" ", xml(&leak.class))?;
            write!(out, "name=\"{}", xml(&leak.headline()))?;
            if let Some(culprit) = leak.culprit() {
                write!(out, ", in {}", xml(&culprit))?;
            }
            write!(out, "\" time=\"0\"")?;
            if let Some(file) = blame.and_then(|frame| frame.file.as_deref()) {
                write!(out, " file=\"{}\"", xml(file))?;
                if let Some(line) = blame.and_then(|frame| frame.line) {
                    write!(out, " line=\"{line}\"")?;
                }
            }
            writeln!(out, ">")?;
            write!(out, "      <failure type=\"{}\" message=\"", xml(&leak.class))?;
            writeln!(out, "{}: {}\">", xml(&leak.done()), xml(&leak.reason))?;
            let times = if leak.count == 1 { "once".into() } else { format!("{} times", leak.count) };
            write!(out, "{times}, first by {}", xml(leak.process.as_deref().unwrap_or("?")))?;
            if let Some(pid) = leak.pid {
                write!(out, "[{pid}]")?;
            }
            writeln!(out)?;
            for frame in &leak.stack {
                let place = frame.place().or_else(|| frame.module.as_deref().map(str::to_owned));
                writeln!(out, "  {} {}", xml(&frame.name()), xml(&place.unwrap_or_default()))?;
            }
            writeln!(out, "      </failure>\n    </testcase>")?;
        }
        if errors > 0 {
            writeln!(
                out,
                "    <testcase classname=\"sockstrace\" name=\"the event stream is complete\" time=\"0\">"
            )?;
            writeln!(out, "      <error message=\"{}\"/>\n    </testcase>", xml(&end.warnings.join("; ")))?;
        }
        writeln!(out, "  </testsuite>\n</testsuites>")?;
        out.flush()
    }
}
