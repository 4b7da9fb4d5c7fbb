//! Graphs, in compressed rows.

use std::collections::VecDeque;

use crate::data::{Random, sum_floats, sum_integers};

struct Graph {
    starts: Vec<u32>,
    targets: Vec<u32>,
}

impl Graph {
    /// A ring, so that every node is reached, with two to eight random edges a node more.
    fn new(nodes: usize) -> Self {
        let mut random = Random::new(17);
        let (mut starts, mut targets) = (vec![0], Vec::new());
        for node in 0..nodes {
            targets.push(((node + 1) % nodes) as u32);
            for _ in 0..2 + random.below(7) {
                targets.push(random.below(nodes) as u32);
            }
            starts.push(targets.len() as u32);
        }
        Self { starts, targets }
    }

    fn edges(&self, node: usize) -> &[u32] {
        &self.targets[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

/// Distances from node 0, breadth first.
pub fn bfs(nodes: usize) -> u64 {
    let graph = Graph::new(nodes);
    let mut distances = vec![u32::MAX; nodes];
    distances[0] = 0;
    let mut queue = VecDeque::from([0_usize]);
    while let Some(node) = queue.pop_front() {
        for &target in graph.edges(node) {
            let target = target as usize;
            if distances[target] == u32::MAX {
                distances[target] = distances[node] + 1;
                queue.push_back(target);
            }
        }
    }
    sum_integers(distances.iter().map(|&distance| distance.into()))
}

/// Twenty rounds of page rank.
pub fn pagerank(nodes: usize) -> u64 {
    let graph = Graph::new(nodes);
    let mut ranks = vec![1.0 / nodes as f64; nodes];
    for _ in 0..20 {
        let mut next = vec![0.15 / nodes as f64; nodes];
        for (node, rank) in ranks.iter().enumerate() {
            let edges = graph.edges(node);
            let share = 0.85 * rank / edges.len() as f64;
            for &target in edges {
                next[target as usize] += share;
            }
        }
        ranks = next;
    }
    sum_floats(&ranks)
}
