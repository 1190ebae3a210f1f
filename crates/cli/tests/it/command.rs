//! Running the command.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A folder to work in, without any host near it.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn mortise<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
        command
            .args(args)
            .current_dir(self.path())
            .env_remove("MORTISE_LOG")
            .env_remove("CC");
        command.env("MORTISE_SOCKET", self.socket());
        command
    }

    /// Where a host of this place puts its control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("data/control.sock")
    }

    /// Exit code, standard output and standard error, in one text without this machine's paths.
    pub(crate) fn run(&self, line: &str) -> String {
        let args = line.split_whitespace();
        self.told(&self.mortise(args).output().unwrap())
    }

    pub(crate) fn told(&self, output: &Output) -> String {
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes).replace(&self.path().display().to_string(), "[DIR]")
        };
        format!(
            "exit {}\n--- stdout\n{}--- stderr\n{}",
            output
                .status
                .code()
                .map_or_else(|| "by signal".to_owned(), |it| it.to_string()),
            text(&output.stdout),
            text(&output.stderr)
        )
    }

    /// Runs a command that must succeed; its standard output.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.mortise(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", self.told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The source of a plugin in C, in folder `upper`.
    pub(crate) fn upper(&self) {
        self.write("upper/plugin.toml", UPPER_TOML);
        self.write("upper/contract/upper.proto", UPPER_PROTO);
        self.write("upper/upper.c", UPPER_C);
    }
}

const UPPER_TOML: &str = r#"[plugin]
name = "upper"
version = "1.0.0"
api = 1
[contract]
provides = ["test.upper.v1.Upper"]
"#;

const UPPER_PROTO: &str = r#"syntax = "proto3";
package test.upper.v1;
service Upper { rpc Upper(Text) returns (Text); }
message Text { string text = 1; }
"#;

/// Capitals: letters inside the one string field change in place, so nothing needs to be parsed. "fail" is refused.
const UPPER_C: &str = r#"#include "mortise.h"
#include "metadata.h"
#include <string.h>

#define STR(text) {text, sizeof(text) - 1}

static mt_status upper(void *self, const mt_call *call, mt_slice in, mt_out *out) {
  (void)self;
  (void)call;
  if (in.len == 6 && memcmp(in.ptr + 2, "fail", 4) == 0) return 9;
  if (out->cap < out->len + in.len && out->grow(out, out->len + in.len) != 0) return MT_E_NOMEM;
  uint8_t *to = out->ptr + out->len;
  for (size_t at = 0; at < in.len; at++) {
    uint8_t byte = in.ptr[at];
    to[at] = at >= 2 && byte >= 'a' && byte <= 'z' ? byte - 32 : byte;
  }
  out->len += in.len;
  return MT_OK;
}

static void destroy(void *self) { (void)self; }

static const mt_method methods[] = {
    {sizeof(mt_method), 0, STR("test.upper.v1.Upper"), STR("Upper"), {0}, upper, NULL},
};

static const mt_instance instance = {
    .size = sizeof(mt_instance),
    .n_methods = 1,
    .method_stride = sizeof(mt_method),
    .methods = methods,
    .destroy = destroy,
};

static mt_status create(const mt_host *host, mt_slice start, const mt_instance **out, mt_out *err) {
  (void)host;
  (void)start;
  (void)err;
  *out = &instance;
  return MT_OK;
}

MT_EXPORT const mt_entry mortise_entry_v1 = {
    MT_MAGIC, sizeof(mt_entry), MT_ABI_MAJOR, MT_ABI_MINOR, 0, {mortise_metadata, sizeof mortise_metadata}, create, NULL,
};
"#;
