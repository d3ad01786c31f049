//! What calls cost, by criterion: to compare one state of the code with another.
//!
//! ```text
//! cargo bench --bench calls -- --save-baseline before
//! cargo bench --bench calls -- --baseline before calls/connect-1
//! ```
//!
//! For sockstrace beside native, bare supervisors and strace in interleaved runs: `make bench` (ratios.rs). The
//! guests measure themselves, so that starting them is not counted.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a bench"
)]

mod suite;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::time::Duration;
use suite::Suite;

fn benches(criterion: &mut Criterion) {
    let suite = Suite::load(&suite::folder());
    for workload in suite.workloads(&["calls/".into()]) {
        assert_eq!(workload.unit, "ns");
        let mut group = criterion.benchmark_group(&workload.name);
        group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        for supervisor in workload.supervisors.iter().filter(|name| !name.starts_with("strace")) {
            group.bench_function(BenchmarkId::from_parameter(supervisor), |bencher| {
                bencher.iter_custom(|times| {
                    let nanoseconds = suite.measure(&workload, supervisor).expect("a figure");
                    Duration::from_nanos(nanoseconds as u64).mul_f64(times as f64)
                });
            });
        }
        group.finish();
    }
}

criterion_group!(calls, benches);
criterion_main!(calls);
