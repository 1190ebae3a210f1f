//! `mortise new`: a plugin that builds and passes its own test.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    args::New,
    exit::{Failure, Fault},
    output::Output,
};

const FILES: [(&str, &str); 9] = [
    ("Cargo.toml", include_str!("../../templates/plugin/Cargo.toml.in")),
    (
        "plugin.toml",
        include_str!("../../templates/plugin/plugin.toml.in"),
    ),
    ("build.rs", include_str!("../../templates/plugin/build.rs.in")),
    (
        "contract/{snake}.proto",
        include_str!("../../templates/plugin/contract.proto.in"),
    ),
    ("src/lib.rs", include_str!("../../templates/plugin/lib.rs.in")),
    ("src/main.rs", include_str!("../../templates/plugin/main.rs.in")),
    (
        "tests/plugin.rs",
        include_str!("../../templates/plugin/test.rs.in"),
    ),
    ("README.md", include_str!("../../templates/plugin/README.md.in")),
    (".gitignore", include_str!("../../templates/plugin/gitignore.in")),
];

/// Words that pass as a plugin's name and not as a crate's.
const RESERVED: [&str; 59] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "build",
    "const",
    "continue",
    "core",
    "crate",
    "deps",
    "do",
    "dyn",
    "else",
    "enum",
    "examples",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "incremental",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
];

#[derive(Serialize)]
struct Made {
    name: String,
    path: PathBuf,
    files: Vec<String>,
}

pub(crate) fn new(args: &New, output: &Output) -> anyhow::Result<()> {
    mortise::manifest::check_plugin_name(&args.name).map_err(|error| {
        Failure::usage(Fault {
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
            ..Fault::default()
        })
    })?;
    if RESERVED.contains(&args.name.as_str()) {
        let fault = Fault::new(format!(
            "`{}` cannot be the name of a crate: Rust uses the word itself",
            args.name
        ));
        return Err(Failure::usage(fault.hint(format!("choose another, such as `my-{}`", args.name))).into());
    }
    let path = args.path.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if fs::read_dir(&path).is_ok_and(|mut it| it.next().is_some()) {
        let message = format!("`{}` is not empty", path.display());
        return Err(Failure::new(Fault::new(message).hint("choose another folder with `--path`")).into());
    }
    let snake = args.name.replace('-', "_");
    let camel: String = args.name.split('-').map(capitalized).collect();
    let sdk = Sdk::find(args.sdk_path.as_deref())?;
    let fill = |text: &str| {
        let text = text
            .replace("{name}", &args.name)
            .replace("{snake}", &snake)
            .replace("{Camel}", &camel);
        text.replace("{sdk}", &sdk.dependency("sdk"))
            .replace("{build}", &sdk.dependency("build"))
            .replace("{testkit}", &sdk.dependency("testkit"))
    };
    let mut files = Vec::new();
    for (file, text) in FILES {
        let file = fill(file);
        let to = path.join(&file);
        let write = || {
            fs::create_dir_all(to.parent().expect("it is inside the folder"))
                .and_then(|()| fs::write(&to, fill(text)))
        };
        write()
            .map_err(|error| Failure::new(Fault::new(format!("cannot write `{}`: {error}", to.display()))))?;
        files.push(file);
    }
    let made = Made {
        name: args.name.clone(),
        path,
        files,
    };
    output.answer(&made, |made| {
        let path = made.path.display();
        format!(
            "made plugin `{}` in {path}\n\ntry it:\n  cd {path} && cargo test\n  mortise build --runtime native\n  \
             mortise run target/mortise/{}-0.1.0 Greet --grant kv --json '{{\"name\": \"Ada\"}}'",
            made.name, made.name
        )
    })
}

/// Where the generated crate takes the SDK from.
enum Sdk {
    /// A checkout.
    Checkout(PathBuf),
    /// A release.
    Release,
}

impl Sdk {
    fn find(given: Option<&Path>) -> Result<Self, Failure> {
        let is_checkout = |dir: &Path| dir.join("crates/sdk/Cargo.toml").is_file();
        if let Some(dir) = given {
            let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
            if !is_checkout(&dir) {
                let fault = Fault::new(format!(
                    "`{}` is no checkout of Mortise: it has no crates/sdk",
                    dir.display()
                ));
                return Err(Failure::usage(fault.hint("name the folder that holds `crates`")));
            }
            return Ok(Self::Checkout(dir));
        }
        let exe = std::env::current_exe().ok();
        let checkout = exe
            .as_deref()
            .into_iter()
            .flat_map(Path::ancestors)
            .find(|it| is_checkout(it));
        Ok(checkout.map_or(Self::Release, |dir| Self::Checkout(dir.to_owned())))
    }

    fn dependency(&self, krate: &str) -> String {
        match self {
            // TOML's basic strings escape as JSON's do.
            Self::Checkout(dir) => {
                let path = dir.join("crates").join(krate);
                format!("{{ path = {} }}", serde_json::Value::from(path.to_string_lossy()))
            }
            Self::Release => {
                format!(
                    "{{ git = \"{}\", tag = \"v{}\" }}",
                    env!("CARGO_PKG_REPOSITORY"),
                    env!("CARGO_PKG_VERSION")
                )
            }
        }
    }
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}
