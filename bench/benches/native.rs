//! A bound native call beside a plain function pointer into the same library.

use criterion::{Criterion, criterion_group, criterion_main};
use mortise_bench::native::Subject;

fn native(criterion: &mut Criterion) {
    let executor = tokio::runtime::Runtime::new().expect("an executor can be made");
    let data = tempfile::tempdir().expect("a data directory");
    let mut group = criterion.benchmark_group("native, 16 B");
    for folder in ["echo-c", "echo"] {
        let mut subject = executor
            .block_on(Subject::new(folder, &data.path().join(folder)))
            .expect("the plugin loads");
        let request = subject.request.clone();
        group.bench_function(format!("{folder}, plain fn pointer"), |it| {
            it.iter(|| subject.bare.call(&request))
        });
        let mut out = Vec::with_capacity(64);
        group.bench_function(format!("{folder}, bound"), |it| {
            it.iter(|| {
                out.clear();
                subject.bound.call(&request, &mut out)
            });
        });
        executor.block_on(subject.host.shutdown());
    }
}

criterion_group!(benches, native);
criterion_main!(benches);
