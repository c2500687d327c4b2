//! Names of response codes and query types as closed sets, fit for labels.
//!
//! Numbers and names are those of IANA's registry "Domain Name System (DNS) Parameters", sections "DNS RCODEs" and
//! "Resource Record (RR) TYPEs". A number that is not met in practice is `other`: peers choose it, labels must not grow.

macro_rules! closed_set {
    ($(#[$doc:meta])* $name:ident: $($variant:ident = $number:literal $label:literal,)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $(#[doc = concat!("`", $label, "`, ", $number, ".")] $variant,)+
            /// Any other number.
            Other,
        }

        impl $name {
            /// Every value, in the order of `self as usize`.
            pub const ALL: [Self; [$($number),+].len() + 1] = [$(Self::$variant,)+ Self::Other];

            /// The value of a number on the wire.
            pub fn of(number: u16) -> Self {
                match number {
                    $($number => Self::$variant,)+
                    _ => Self::Other,
                }
            }

            /// The label value.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                    Self::Other => "other",
                }
            }
        }
    };
}

closed_set! {
    /// What an answer says of its question, extended codes (RFC 6891) included.
    ResponseCode:
    NoError = 0 "NOERROR",
    FormErr = 1 "FORMERR",
    ServFail = 2 "SERVFAIL",
    NxDomain = 3 "NXDOMAIN",
    NotImp = 4 "NOTIMP",
    Refused = 5 "REFUSED",
    YxDomain = 6 "YXDOMAIN",
    YxRrset = 7 "YXRRSET",
    NxRrset = 8 "NXRRSET",
    NotAuth = 9 "NOTAUTH",
    NotZone = 10 "NOTZONE",
    BadVers = 16 "BADVERS",
    BadCookie = 23 "BADCOOKIE",
}

closed_set! {
    /// What is asked for.
    QueryType:
    A = 1 "A",
    Ns = 2 "NS",
    Cname = 5 "CNAME",
    Soa = 6 "SOA",
    Ptr = 12 "PTR",
    Mx = 15 "MX",
    Txt = 16 "TXT",
    Aaaa = 28 "AAAA",
    Srv = 33 "SRV",
    Naptr = 35 "NAPTR",
    Ds = 43 "DS",
    Dnskey = 48 "DNSKEY",
    Svcb = 64 "SVCB",
    Https = 65 "HTTPS",
    Any = 255 "ANY",
    Caa = 257 "CAA",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_names() {
        for (number, name) in [
            (0, "NOERROR"),
            (3, "NXDOMAIN"),
            (11, "other"),
            (16, "BADVERS"),
            (4095, "other"),
        ] {
            assert_eq!(ResponseCode::of(number).name(), name);
        }
        for (number, name) in [(1, "A"), (28, "AAAA"), (65, "HTTPS"), (0, "other"), (65535, "other")] {
            assert_eq!(QueryType::of(number).name(), name);
        }
    }

    #[test]
    fn each_value_is_at_its_place() {
        assert!((0..).zip(ResponseCode::ALL).all(|(place, code)| code as usize == place));
        assert!((0..).zip(QueryType::ALL).all(|(place, kind)| kind as usize == place));
    }
}
