//! What comes out of a plugin's source folder.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod component;
mod embed;
mod metadata;
mod proto;
mod rust;

use std::{fs, path::Path};

use tempfile::TempDir;

pub(crate) const MANIFEST: &str = r#"
[plugin]
name = "greeter"
version = "1.2.3"
api = 1
[contract]
provides = ["acme.v1.Greeter"]
[limits]
concurrency = 7
"#;

pub(crate) const CONTRACT: &str = r#"
syntax = "proto3";
package acme.v1;
import "mortise/options.proto";
import "google/protobuf/timestamp.proto";
import "acme/type/name.proto";
// Greets.
service Greeter {
  // Says hello.
  rpc Greet(GreetRequest) returns (GreetReply) { option (mortise.nonblocking) = true; }
  rpc Bye(acme.type.Name) returns (GreetReply) { option (mortise.idempotent) = true; }
}
service Watcher {
  rpc Watch(GreetRequest) returns (stream GreetReply);
  rpc Count(stream GreetRequest) returns (GreetReply);
  rpc Chat(stream GreetRequest) returns (stream GreetReply);
  rpc Look(GreetRequest) returns (GreetReply);
}
message GreetRequest { acme.type.Name name = 1; google.protobuf.Timestamp at = 2; }
message GreetReply { string text = 1; }
"#;

pub(crate) const NAME: &str = r#"
syntax = "proto3";
package acme.type;
message Name { string first = 1; string last = 2; }
"#;

/// A plugin's source folder.
pub(crate) fn source(manifest: &str, contract: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    write("plugin.toml", manifest);
    write("contract/greeter.proto", contract);
    write("contract/acme/type/name.proto", NAME);
    fs::create_dir(dir.path().join("out")).expect("a folder");
    dir
}

pub(crate) fn builder(source: &Path) -> mortise_build::Builder {
    mortise_build::Builder::new()
        .manifest(source.join("plugin.toml"))
        .contract_dir(source.join("contract"))
        .out_dir(source.join("out"))
}
