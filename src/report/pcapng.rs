//! stub
pub(super) fn run(_: &super::Options, _: &std::path::Path) -> Result<u8, String> {
    Err("not built yet".into())
}
