//! A WebAssembly call through the host, warm and with a fresh instance.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use echo::contract::EchoRequest;
use mortise_bench::{subject::Reuse, wasm::Subject};
use prost::Message as _;

fn wasm(criterion: &mut Criterion) {
    let executor = tokio::runtime::Runtime::new().expect("an executor can be made");
    let data = tempfile::tempdir().expect("a data directory");
    for (reuse, name) in [(Reuse::WARM, "warm"), (Reuse::Ephemeral, "fresh")] {
        let subject = executor
            .block_on(Subject::new(&data.path().join(name), reuse))
            .expect("the plugin loads");
        let mut group = criterion.benchmark_group(format!("wasm, {name}"));
        for bytes in [64_usize, 1 << 20] {
            let request = EchoRequest {
                message: vec![7; bytes],
                text: String::new(),
            }
            .encode_to_vec();
            let request = Bytes::from(request);
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(format!("{bytes} B"), |it| {
                it.iter(|| {
                    executor
                        .block_on(subject.call(request.clone()))
                        .expect("the plugin answers")
                });
            });
        }
        group.finish();
        executor.block_on(subject.host.shutdown());
    }
}

criterion_group!(benches, wasm);
criterion_main!(benches);
