//! Reports: recorded and made event streams, in every format, held against what others make of them: a JSON
//! schema, an XML parser, a browser, tshark; and configurations that were learned, by running with them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "report/browser.rs"]
mod browser;
#[path = "report/capture.rs"]
mod capture;
#[path = "report/faults.rs"]
mod faults;
#[path = "report/formats.rs"]
mod formats;
#[path = "report/learn.rs"]
mod learn;
#[path = "report/made.rs"]
mod made;
#[path = "report/manual.rs"]
mod manual;
#[path = "report/page.rs"]
mod page;
mod support;
#[path = "report/tool.rs"]
mod tool;
#[path = "report/trace.rs"]
mod trace;
