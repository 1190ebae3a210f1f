//! Pure functions that adapt parcels of version 3 to version 4 and back: what no rule can say, since a name is split at its last space.
#![forbid(unsafe_code)]

use mortise_sdk::prelude::*;

mortise_sdk::contract!();
use contract::{Four, Split, Three, four, three};

#[derive(Default)]
struct Adapter;

#[mortise_sdk::plugin]
impl Split for Adapter {
    fn up(&self, _: &Cx, parcel: Three) -> Result<Four> {
        let Three { id, grams, speed, to, currency, postcode } = parcel;
        let address = (!postcode.is_empty()).then_some(four::Address { postcode });
        let to = (to.is_some() || address.is_some()).then(|| {
            let three::Party { name, country } = to.unwrap_or_default();
            let (first, last) = match name.rsplit_once(' ') {
                Some((first, last)) => (first.to_owned(), last.to_owned()),
                None => (String::new(), name),
            };
            four::Party { country, first, last, address }
        });
        Ok(Four { id, grams, speed, to, currency })
    }

    fn down(&self, _: &Cx, parcel: Four) -> Result<Three> {
        let Four { id, grams, speed, to, currency } = parcel;
        let mut postcode = String::new();
        let to = to.map(|four::Party { country, first, last, address }| {
            postcode = address.unwrap_or_default().postcode;
            let name = [first, last].join(" ").trim().to_owned();
            three::Party { name, country }
        });
        Ok(Three { id, grams, speed, to, currency, postcode })
    }
}
