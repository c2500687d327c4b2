//! What a program may have asked for, given the name that was queried and its search list: that name, or its beginning.
//!
//! The list of a process that has ended cannot be read. Then any beginning may be what was asked for, until the names that are
//! queried one after the other leave one.
use crate::dns::SearchList;

/// Beginnings of a name that are looked at where the search list is not known: names of addresses have 34 labels.
const GUESSES: usize = 8;

/// Lengths of the beginnings of one name, which its owner keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bases {
    /// The search list was not known.
    pub(super) is_guess: bool,
    lengths: Vec<u8>,
    /// The likeliest when more than one is left.
    first_guess: u8,
}

impl Bases {
    /// All that the search list allows for a name; without one, each of its beginnings.
    pub(super) fn of(name: &str, search: Option<&SearchList>) -> Self {
        let Some(search) = search else {
            return Self::guess(name);
        };
        // Names have at most 253 bytes.
        let whole = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let mut lengths = vec![whole];
        let mut first_guess = whole;
        // A resolver begins with the name itself when it has `ndots` dots, else with the first suffix. Where both may be,
        // a list with more than the usual one dot is there to complete names.
        let is_bare_first = |text: &str| text.bytes().filter(|byte| *byte == b'.').count() >= usize::from(search.ndots);
        let is_whole_likely = search.ndots <= 1 && is_bare_first(name);
        for (place, suffix) in search.suffixes.iter().enumerate() {
            let Some(base) = name.strip_suffix(&**suffix).and_then(|rest| rest.strip_suffix('.')) else {
                continue;
            };
            let length = base.len() as u8;
            if base.is_empty() || lengths.contains(&length) {
                continue;
            }
            lengths.push(length);
            if place == 0 && !is_whole_likely && !is_bare_first(base) {
                first_guess = length;
            }
        }
        Self {
            is_guess: false,
            lengths,
            first_guess,
        }
    }

    fn guess(name: &str) -> Self {
        let whole = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let dots = name.bytes().enumerate().filter(|(_, byte)| *byte == b'.');
        let beginnings = dots.filter_map(|(at, _)| u8::try_from(at).ok()).filter(|at| *at != 0);
        Self {
            is_guess: true,
            lengths: [whole].into_iter().chain(beginnings.take(GUESSES)).collect(),
            first_guess: whole,
        }
    }

    /// The bases as text; `name` is the one that these are of.
    pub(super) fn iter<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.lengths
            .iter()
            .filter_map(|length| name.get(..usize::from(*length)))
    }

    /// Whether both may have been asked for as one.
    pub(super) fn have_common(&self, name: &str, other: &Self, other_name: &str) -> bool {
        self.lengths.iter().any(|length| has(*length, name, other, other_name))
    }

    /// Keeps what both have in common and gives what is gone.
    pub(super) fn keep_common(&mut self, name: &str, other: &Self, other_name: &str) -> Self {
        let is_common = |length: &u8| has(*length, name, other, other_name);
        let (kept, gone) = self.lengths.iter().copied().partition(is_common);
        self.lengths = kept;
        self.is_guess &= other.is_guess;
        Self {
            is_guess: false,
            lengths: gone,
            first_guess: 0,
        }
    }

    /// The likeliest of those that are left; after a search through two suffixes there is only one.
    pub(super) fn best<'a>(&self, name: &'a str) -> &'a str {
        let is_left = self.lengths.contains(&self.first_guess);
        let length = if is_left {
            Some(self.first_guess)
        } else if self.is_guess {
            // Suffixes rarely begin alike.
            self.lengths.iter().max().copied()
        } else {
            self.lengths.iter().min().copied()
        };
        length
            .and_then(|length| name.get(..usize::from(length)))
            .unwrap_or(name)
    }
}

fn has(length: u8, name: &str, other: &Bases, other_name: &str) -> bool {
    let end = usize::from(length);
    other.lengths.contains(&length) && name.get(..end) == other_name.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(ndots: u8) -> SearchList {
        SearchList {
            suffixes: ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"]
                .map(Box::from)
                .into(),
            ndots,
        }
    }

    fn check(name: &str, ndots: u8, bases: &[&str], best: &str) {
        let found = Bases::of(name, Some(&search(ndots)));
        assert_eq!(found.iter(name).collect::<Vec<_>>(), bases);
        assert_eq!(found.best(name), best);
    }

    #[test]
    fn a_name_and_what_suffixes_leave() {
        let api = "api.shop.svc.cluster.local";
        check(api, 5, &[api, "api", "api.shop", "api.shop.svc"], "api");
        check(api, 1, &[api, "api", "api.shop", "api.shop.svc"], api);
        check(
            "api.svc.cluster.local",
            5,
            &["api.svc.cluster.local", "api", "api.svc"],
            "api.svc.cluster.local",
        );
        let expanded = "proxy.golang.org.shop.svc.cluster.local";
        assert_eq!(Bases::of(expanded, Some(&search(5))).best(expanded), "proxy.golang.org");
        check("proxy.golang.org", 5, &["proxy.golang.org"], "proxy.golang.org");
        check("cluster.local", 5, &["cluster.local"], "cluster.local");
        check("notcluster.local", 5, &["notcluster.local"], "notcluster.local");
    }

    #[test]
    fn a_search_narrows_it_down() {
        let (first, second) = ("api.shop.svc.cluster.local", "api.svc.cluster.local");
        let mut bases = Bases::of(first, Some(&search(5)));
        let others = Bases::of(second, Some(&search(5)));
        assert!(bases.have_common(first, &others, second));
        let gone = bases.keep_common(first, &others, second);
        assert_eq!(bases.iter(first).collect::<Vec<_>>(), ["api"]);
        assert_eq!(gone.iter(first).count(), 3);
        assert!(!bases.have_common(first, &Bases::of("web", Some(&search(5))), "web"));
    }

    #[test]
    fn without_a_list_the_sequence_tells() {
        let names = [
            "proxy.golang.org.shop.svc.cluster.local",
            "proxy.golang.org.svc.cluster.local",
            "proxy.golang.org",
        ];
        let mut bases = Bases::of(names[0], None);
        assert_eq!(bases.best(names[0]), names[0], "one name alone is what was asked for");
        for name in &names[1..] {
            let others = Bases::of(name, None);
            assert!(bases.have_common(names[0], &others, name));
            bases.keep_common(names[0], &others, name);
            assert_eq!(bases.best(names[0]), names[2]);
        }
        assert!(!bases.have_common(names[0], &Bases::of("sum.golang.org", None), "sum.golang.org"));
    }
}
