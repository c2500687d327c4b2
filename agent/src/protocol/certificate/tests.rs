//! Chains made with OpenSSL (`fixtures`): "Lab Root" from November 2026, "Lab Intermediate" until 2099, and
//! certificates for the year 2027: `leaf` and `leafaia` by the intermediate, `rootleaf` by the root without alternative
//! names, `self` by itself.

use super::*;

const ROOT: &[u8] = include_bytes!("fixtures/root.der");
const INTERMEDIATE: &[u8] = include_bytes!("fixtures/inter.der");
const LEAF: &[u8] = include_bytes!("fixtures/leaf.der");
const LEAF_WITH_LOCATION: &[u8] = include_bytes!("fixtures/leafaia.der");
const ROOT_LEAF: &[u8] = include_bytes!("fixtures/rootleaf.der");
const SELF_SIGNED: &[u8] = include_bytes!("fixtures/self.der");

const IN_2027: i64 = 1_813_104_000;

fn roots(ders: &[&[u8]]) -> Roots {
    let mut roots = Roots::default();
    assert!(ders.iter().all(|der| roots.insert(der)));
    roots
}

fn check_at(chain: &[&[u8]], name: &str, roots: &Roots, refused: bool, now_unix_s: i64, expected: ChainState) {
    let chain = Chain::read(chain).expect("it can be read");
    let circumstances = Circumstances {
        server_name: Some(name),
        now_unix_s,
        roots,
        is_authority_refused: refused,
    };
    assert_eq!(chain.state(circumstances), expected);
}

fn check(chain: &[&[u8]], roots: &Roots, refused: bool, expected: ChainState) {
    check_at(chain, "a.example", roots, refused, IN_2027, expected);
}

#[test]
fn times() {
    let roots = Roots::default();
    for (now_unix_s, expected) in [
        (1_798_761_599, ChainState::NotYetValid),
        (1_798_761_600, ChainState::Ok),
        (1_830_211_200, ChainState::Ok),
        (1_830_211_201, ChainState::Expired),
    ] {
        check_at(&[LEAF, INTERMEDIATE], "a.example", &roots, false, now_unix_s, expected);
    }
}

#[test]
fn names() {
    for (name, expected) in [
        ("a.example", ChainState::Ok),
        ("x.b.example", ChainState::Ok),
        ("b.example", ChainState::NameMismatch),
        ("x.y.b.example", ChainState::NameMismatch),
        ("ignored.example", ChainState::NameMismatch),
    ] {
        check_at(&[LEAF, INTERMEDIATE], name, &Roots::default(), false, IN_2027, expected);
    }
    check_at(
        &[ROOT_LEAF],
        "cn.example",
        &Roots::default(),
        false,
        IN_2027,
        ChainState::Ok,
    );
    let chain = Chain::read(&[LEAF]).expect("it can be read");
    assert!(chain.has_address(&[192, 0, 2, 1]) && !chain.has_address(&[192, 0, 2, 2]));
}

#[test]
fn authorities() {
    let (none, lab, other) = (Roots::default(), roots(&[ROOT]), roots(&[SELF_SIGNED]));
    check(&[LEAF, INTERMEDIATE], &none, false, ChainState::Ok);
    check(&[LEAF, INTERMEDIATE], &lab, false, ChainState::Ok);
    check(&[LEAF, INTERMEDIATE, ROOT], &lab, false, ChainState::Ok);
    check(&[LEAF, ROOT, INTERMEDIATE], &lab, false, ChainState::Ok);
    check(&[LEAF, INTERMEDIATE, ROOT], &other, false, ChainState::UnknownAuthority);
    check(&[LEAF, INTERMEDIATE], &other, false, ChainState::UnknownAuthority);
    check(&[LEAF, INTERMEDIATE], &none, true, ChainState::UnknownAuthority);
    // The intermediate is missing: told by what came instead, by the location. What nothing tells is no more than unknown.
    check(&[LEAF, ROOT], &none, false, ChainState::MissingIntermediate);
    check(&[LEAF_WITH_LOCATION], &none, false, ChainState::MissingIntermediate);
    check(&[LEAF_WITH_LOCATION], &none, true, ChainState::MissingIntermediate);
    check(
        &[LEAF_WITH_LOCATION, INTERMEDIATE],
        &none,
        true,
        ChainState::UnknownAuthority,
    );
    check(&[LEAF], &none, true, ChainState::UnknownAuthority);
    // Twice the same, and what belongs to nobody, but is of no authority.
    check(&[LEAF, LEAF], &none, true, ChainState::UnknownAuthority);
    check(&[LEAF, ROOT_LEAF], &none, true, ChainState::UnknownAuthority);
    // A private root that signed the server's certificate itself.
    check_at(
        &[ROOT_LEAF],
        "cn.example",
        &none,
        true,
        IN_2027,
        ChainState::UnknownAuthority,
    );
    check(&[LEAF], &none, false, ChainState::Ok);
    check(&[LEAF], &lab, false, ChainState::UnknownAuthority);
    check_at(&[ROOT_LEAF], "cn.example", &lab, false, IN_2027, ChainState::Ok);
    check_at(
        &[SELF_SIGNED],
        "self.example",
        &none,
        false,
        IN_2027,
        ChainState::SelfSigned,
    );
    check_at(&[SELF_SIGNED], "self.example", &other, false, IN_2027, ChainState::Ok);
}

#[test]
fn what_cannot_be_read_is_no_chain() {
    assert_eq!(Chain::read(&[]), None);
    for end in 0..LEAF.len() {
        assert_eq!(Chain::read(&[&LEAF[..end], INTERMEDIATE]), None);
    }
    let chain = Chain::read(&[LEAF, &INTERMEDIATE[..90]]).expect("the first can be read");
    assert_eq!(chain.sent, 2);
}
