//! What stands in the parentheses.

use syn::{
    Error, Ident, LitBool, LitStr, Path, Result, Token, parenthesized,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
};

const KNOWN: &str = "known are `start = path`, `health = path`, `stop = path`, `also(Trait, ..)`, `generated = \"dir\"` and `export = false`";

/// The options of `#[plugin(..)]`.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) start: Option<Path>,
    pub(crate) health: Option<Path>,
    pub(crate) stop: Option<Path>,
    pub(crate) also: Option<Vec<Path>>,
    pub(crate) generated: Option<LitStr>,
    pub(crate) export: Option<bool>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            options.one(input)?;
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}

impl Options {
    fn one(&mut self, input: ParseStream<'_>) -> Result<()> {
        let name: Ident = input.parse()?;
        let known = match name.to_string().as_str() {
            "start" => set(&name, &mut self.start, || value(input)),
            "health" => set(&name, &mut self.health, || value(input)),
            "stop" => set(&name, &mut self.stop, || value(input)),
            "generated" => set(&name, &mut self.generated, || value(input)),
            "export" => set(&name, &mut self.export, || {
                value::<LitBool>(input).map(|it| it.value)
            }),
            "also" => set(&name, &mut self.also, || {
                let list;
                parenthesized!(list in input);
                Ok(Punctuated::<Path, Token![,]>::parse_terminated(&list)?
                    .into_iter()
                    .collect())
            }),
            other => {
                return Err(Error::new(
                    name.span(),
                    format!("unknown option `{other}`; {KNOWN}"),
                ));
            }
        };
        known
    }
}

fn value<T: Parse>(input: ParseStream<'_>) -> Result<T> {
    input.parse::<Token![=]>()?;
    input.parse()
}

fn set<T>(name: &Ident, slot: &mut Option<T>, value: impl FnOnce() -> Result<T>) -> Result<()> {
    if slot.is_some() {
        return Err(Error::new(
            name.span(),
            format!("`{name}` is given twice; keep one"),
        ));
    }
    *slot = Some(value()?);
    Ok(())
}
