//! The one connection.

use redis::{
    Client, IntoConnectionInfo, ProtocolVersion, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig, SendError},
};
use tokio::sync::{OnceCell, watch};

use crate::{failure::Failure, news::News};

pub(crate) struct Server {
    client: Client,
    connection: OnceCell<ConnectionManager>,
    news: News,
}

impl Server {
    pub(crate) fn new(server: impl IntoConnectionInfo) -> Result<Self, RedisError> {
        let info = server.into_connection_info()?;
        // Messages come by the same connection as answers.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        Ok(Server { client, connection: OnceCell::new(), news: News::default() })
    }

    /// A handle on the connection, which is made by the first one, and again where it breaks.
    pub(crate) async fn connection(&self) -> Result<ConnectionManager, Failure> {
        Failure::without_runtime()?;
        let connect = || async {
            let news = self.news.clone();
            let config = ConnectionManagerConfig::new()
                .set_number_of_retries(1)
                .set_push_sender(move |message| {
                    news.tell(&message);
                    Ok::<_, SendError>(())
                })
                .set_automatic_resubscription();
            let mut connection = ConnectionManager::new_with_config(self.client.clone(), config).await?;
            // Where this is not allowed, changes are looked for.
            let _ = connection.psubscribe(News::PATTERN).await;
            Ok(connection)
        };
        self.connection.get_or_try_init(connect).await.cloned().map_err(Failure::of)
    }

    /// Changes when a message has come for this name, or may have been missed.
    pub(crate) fn news(&self, name: &str) -> watch::Receiver<()> {
        self.news.of(name)
    }
}
