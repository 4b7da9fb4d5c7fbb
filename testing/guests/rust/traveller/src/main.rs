//! `traveller NODE...` goes to these nodes, one after the other, as a new instance each time, and says at the last one where
//! it has been. A node that does not take it is left out.

use std::process::exit;

use dunlin::{Agent, where_am_i};

/// What goes along: where it is still to go, and where it has been.
struct Traveller {
    route: Vec<String>,
    seen: Vec<String>,
}

impl Agent for Traveller {
    fn depart(&self) -> Vec<u8> {
        format!("{}\n{}", self.route.join(" "), self.seen.join(" ")).into_bytes()
    }

    fn arrive(luggage: Vec<u8>) {
        let text = String::from_utf8(luggage).expect("it packed text");
        let (route, seen) = text.split_once('\n').expect("it packed two lines");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        Self { route: words(route), seen: words(seen) }.look_around()
    }
}

impl Traveller {
    fn look_around(mut self) {
        self.seen.push(where_am_i());
        while !self.route.is_empty() {
            let next = self.route.remove(0);
            let error = self.leave(&next);
            println!("{next}: {error}");
        }
        println!("seen {}", self.seen.join(" "));
        exit(self.seen.len() as i32);
    }
}

dunlin::agent!(Traveller);

fn main() {
    Traveller { route: std::env::args().skip(1).collect(), seen: Vec::new() }.look_around();
}
