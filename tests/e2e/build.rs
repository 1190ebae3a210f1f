//! Clients of five versions of one service, for the tests of calls between them.

use std::{env, fs, path::Path};

use mortise_build::Builder;

fn main() {
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    for number in 1..=5 {
        let plugin = Path::new("../../plugins").join(format!("parcel-{number}"));
        let out = Path::new(&out).join(format!("parcel-{number}"));
        fs::create_dir_all(&out).expect("the folder is cargo's");
        Builder::new()
            .client_only()
            .runtime_path("::mortise")
            .contract_dir(plugin.join("contract"))
            .adapts_of(plugin.join("plugin.toml"))
            .out_dir(out)
            .run();
    }
}
