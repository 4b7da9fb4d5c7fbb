//! In which order a keep takes orders.

use crate::order::Order;
use crate::packet::Versions;
use crate::spec::OrderId;

/// Lets orders through that come in an order in which a node may give them. What the keep can do with one at that
/// moment is its own business.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gate {
    last: Option<OrderId>,
}

/// An order that no correct node gives. The keep carries nothing of it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutOfOrder {
    /// The identity comes first and once.
    #[error("the first order must say who the keep is, and only the first: the {order} order came out of turn")]
    Identity {
        /// The order.
        order: &'static str,
    },
    /// Order numbers rise.
    #[error("order {found} came after order {last}: numbers of orders must rise")]
    Number {
        /// What came.
        found: OrderId,
        /// The last one.
        last: OrderId,
    },
    /// The chosen version is none of ours.
    #[error("the node chose protocol version {chosen}, this keep speaks {oldest} to {newest}")]
    Version {
        /// The node's choice.
        chosen: u16,
        /// The oldest that we speak.
        oldest: u16,
        /// The newest.
        newest: u16,
    },
}

impl Gate {
    /// A gate through which nothing has come.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the next order.
    ///
    /// # Errors
    /// [`OutOfOrder`]; the gate is as it was before.
    pub fn admit(&mut self, order: &Order) -> Result<(), OutOfOrder> {
        let is_first = matches!(order, Order::Identity(_));
        if is_first == self.last.is_some() {
            return Err(OutOfOrder::Identity { order: order.name() });
        }
        if let Order::Identity(identity) = order {
            let Versions { oldest, newest } = Versions::SUPPORTED;
            if !(oldest..=newest).contains(&identity.version) {
                return Err(OutOfOrder::Version { chosen: identity.version, oldest, newest });
            }
        }
        if let Some(found) = order.id() {
            match self.last {
                Some(last) if found <= last => return Err(OutOfOrder::Number { found, last }),
                _ => self.last = Some(found),
            }
        }
        Ok(())
    }
}
