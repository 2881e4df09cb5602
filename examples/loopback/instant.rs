//! instant-acme over reqwest, which can be told where a made-up name leads and which root to trust.

use std::pin::Pin;

use bytes::Bytes;
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

/// The client that instant-acme sends its requests with.
pub(crate) struct InstantHttp(pub(crate) reqwest::Client);

impl HttpClient for InstantHttp {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let request = http::Request::from_parts(head, body.to_bytes());
            let request =
                reqwest::Request::try_from(request).map_err(|error| Error::Other(Box::new(error)))?;
            let response = client
                .execute(request)
                .await
                .map_err(|error| Error::Other(Box::new(error)))?;
            Ok(BytesResponse::from(http::Response::<reqwest::Body>::from(
                response,
            )))
        })
    }
}
