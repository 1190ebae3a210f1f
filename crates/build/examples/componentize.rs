//! `cargo run -p mortise-build --features componentize --example componentize -- core.wasm component.wasm`

use std::{env, fs, process::ExitCode};

fn main() -> ExitCode {
    let [core, component] = &env::args().skip(1).collect::<Vec<_>>()[..] else {
        eprintln!("usage: componentize CORE.wasm COMPONENT.wasm");
        return ExitCode::from(64);
    };
    let outcome = fs::read(core)
        .map_err(|error| format!("cannot read `{core}`: {error}"))
        .and_then(|it| mortise_build::componentize(&it).map_err(|error| error.to_string()))
        .and_then(|it| {
            fs::write(component, it).map_err(|error| format!("cannot write `{component}`: {error}"))
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
