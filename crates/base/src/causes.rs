//! Errors in one line.

use core::error::Error;

/// An error and all its causes: `what: why: why`.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn every_cause_is_there_in_its_order() {
        let inner = io::Error::other("no space");
        assert_eq!(with_causes(&inner), "no space");
        let outer = Outer(Some(Box::new(Outer(None))));
        assert_eq!(with_causes(&outer), "outer: outer");
    }

    #[derive(Debug)]
    struct Outer(Option<Box<Outer>>);

    impl core::fmt::Display for Outer {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("outer")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.0.as_deref().map(|inner| inner as &dyn Error)
        }
    }
}
