//! What the daemon's metrics listener says.

use std::net::SocketAddr;
use std::time::Duration;

/// A page, if the listener is there.
pub(crate) async fn page(address: SocketAddr, path: &str) -> Option<String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build();
    let url = format!("http://{address}{path}");
    let answer = client.unwrap().get(url).send().await.ok()?;
    assert_eq!(answer.status(), 200);
    answer.text().await.ok()
}

/// The value of a series, by its name with its labels.
pub(crate) async fn figure(address: SocketAddr, series: &str) -> Option<f64> {
    let page = page(address, "/metrics").await.unwrap();
    let mut values = page
        .lines()
        .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    values.next().map(|value| value.parse().unwrap())
}
