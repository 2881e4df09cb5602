//! CSR: being written.
use crate::acme::certificate::Der;
/// A CSR that matches its order.
#[derive(Debug)]
pub struct MatchedCsr(Der);
impl MatchedCsr {
    /// The CSR.
    pub fn into_der(self) -> Der {
        self.0
    }
}
