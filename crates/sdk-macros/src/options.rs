//! What stands in the parentheses.

use syn::{
    Error, Ident, LitBool, LitStr, Path, Result, Token, parenthesized,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
    token,
};

const KNOWN: &str = "known are `start = path`, `health = path`, `stop = path`, `stateful`, `veto = path`, `post_load = path`, `pre_unload = path`, `configure = path`, `also(Trait, ..)`, `generated = \"dir\"` and `export = false`";

/// The options of `#[plugin(..)]`.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) start: Option<Path>,
    pub(crate) health: Option<Path>,
    pub(crate) stop: Option<Path>,
    pub(crate) stateful: Option<Ident>,
    pub(crate) veto: Option<Path>,
    pub(crate) post_load: Option<Path>,
    pub(crate) pre_unload: Option<Path>,
    pub(crate) configure: Option<Path>,
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
        match name.to_string().as_str() {
            "start" => set(&name, &mut self.start, || value(&name, input)),
            "health" => set(&name, &mut self.health, || value(&name, input)),
            "stop" => set(&name, &mut self.stop, || value(&name, input)),
            "stateful" => set(&name, &mut self.stateful, || Ok(name.clone())),
            "veto" => set(&name, &mut self.veto, || value(&name, input)),
            "post_load" => set(&name, &mut self.post_load, || value(&name, input)),
            "pre_unload" => set(&name, &mut self.pre_unload, || value(&name, input)),
            "configure" => set(&name, &mut self.configure, || value(&name, input)),
            "generated" => set(&name, &mut self.generated, || value(&name, input)),
            "export" => set(&name, &mut self.export, || {
                value::<LitBool>(&name, input).map(|it| it.value)
            }),
            "also" => set(&name, &mut self.also, || {
                if !input.peek(token::Paren) {
                    return Err(Error::new(
                        name.span(),
                        "`also` takes a list; write `also(Trait, ..)`",
                    ));
                }
                let list;
                parenthesized!(list in input);
                Ok(Punctuated::<Path, Token![,]>::parse_terminated(&list)?
                    .into_iter()
                    .collect())
            }),
            other => Err(Error::new(
                name.span(),
                format!("unknown option `{other}`; {KNOWN}"),
            )),
        }
    }
}

fn value<T: Parse>(name: &Ident, input: ParseStream<'_>) -> Result<T> {
    if !input.peek(Token![=]) {
        return Err(Error::new(
            name.span(),
            format!("`{name}` needs a value; {KNOWN}"),
        ));
    }
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
