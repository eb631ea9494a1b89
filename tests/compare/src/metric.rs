//! What is measured, and where.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The round trip of a link with a delay.
pub(crate) const ROUND_TRIP: Duration = Duration::from_millis(20);

/// The round trip of a long fat link.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(100);

/// How fast a limited link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rate {
    /// 1 Gbit/s.
    Gigabit,
    /// 100 Mbit/s.
    Tenth,
}

/// Which way bulk data goes while requests are measured, seen from who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// To the server.
    Up,
    /// From the server.
    Down,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Upload on so many streams.
    Bulk(usize),
    /// Upload and download at once.
    Both,
    /// Requests.
    Latency,
    /// Requests with both ends on one CPU.
    OneCpu,
    /// Streams, one after the other, by 100 tasks.
    Churn,
    /// A stream that nobody reads.
    Unread,
    /// Connections, one after the other.
    Setup,
    /// The time to the first answer on a link with a delay.
    RoundTrips,
    /// Memory of idle streams.
    StreamMemory,
    /// Memory of idle connections.
    ConnectionMemory,
    /// Upload on one stream over a limited link.
    LinkBulk(Rate),
    /// Upload and download at once over a limited link.
    LinkBoth(Rate),
    /// Requests on a link with a delay and a rate.
    Request(Rate),
    /// Download on one stream over a long fat link.
    LongFat,
    /// Requests while bulk data saturates a limited link.
    LinkLoad(Rate, Load),
}

/// Where the two processes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On loopback.
    Loopback,
    /// At the two ends of a link of this rate.
    Limited(Rate),
    /// At the two ends of a link with this round trip, and maybe a rate.
    Delayed(Duration, Option<Rate>),
}

/// All metrics, in the order in which they are measured.
pub(crate) const ALL: [(&str, Metric); 22] = [
    ("bulk-1", Metric::Bulk(1)),
    ("bulk-10", Metric::Bulk(10)),
    ("bulk-100", Metric::Bulk(100)),
    ("both", Metric::Both),
    ("latency", Metric::Latency),
    ("one-cpu", Metric::OneCpu),
    ("churn", Metric::Churn),
    ("setup", Metric::Setup),
    ("unread", Metric::Unread),
    ("stream-memory", Metric::StreamMemory),
    ("connection-memory", Metric::ConnectionMemory),
    ("round-trips", Metric::RoundTrips),
    ("request-20ms-1g", Metric::Request(Rate::Gigabit)),
    ("request-20ms-100m", Metric::Request(Rate::Tenth)),
    ("long-fat", Metric::LongFat),
    ("link-1g", Metric::LinkBulk(Rate::Gigabit)),
    ("link-100m", Metric::LinkBulk(Rate::Tenth)),
    ("link-both-1g", Metric::LinkBoth(Rate::Gigabit)),
    ("load-up-1g", Metric::LinkLoad(Rate::Gigabit, Load::Up)),
    ("load-down-1g", Metric::LinkLoad(Rate::Gigabit, Load::Down)),
    ("load-up-100m", Metric::LinkLoad(Rate::Tenth, Load::Up)),
    ("load-down-100m", Metric::LinkLoad(Rate::Tenth, Load::Down)),
];

impl Rate {
    /// As `tc` writes it.
    pub(crate) const fn tc(self) -> &'static str {
        match self {
            Self::Gigabit => "1gbit",
            Self::Tenth => "100mbit",
        }
    }

    /// How long so many bytes take.
    pub(crate) const fn time_for(self, bytes: usize) -> Duration {
        let nanoseconds_per_byte = match self {
            Self::Gigabit => 8,
            Self::Tenth => 80,
        };
        Duration::from_nanos(bytes as u64 * nanoseconds_per_byte)
    }
}

impl Metric {
    /// Where it is measured.
    pub(crate) const fn place(self) -> Place {
        match self {
            Self::LinkBulk(rate) | Self::LinkBoth(rate) | Self::LinkLoad(rate, _) => Place::Limited(rate),
            Self::RoundTrips => Place::Delayed(ROUND_TRIP, None),
            Self::Request(rate) => Place::Delayed(ROUND_TRIP, Some(rate)),
            Self::LongFat => Place::Delayed(LONG_ROUND_TRIP, Some(Rate::Gigabit)),
            _ => Place::Loopback,
        }
    }

    /// Whether allocations are counted.
    pub(crate) const fn counts_memory(self) -> bool {
        matches!(self, Self::StreamMemory | Self::ConnectionMemory | Self::Unread)
    }

    /// How often it is measured at most: what hardly varies once, what takes long seldom.
    pub(crate) const fn most_rounds(self) -> usize {
        match self {
            Self::StreamMemory | Self::ConnectionMemory | Self::RoundTrips | Self::Unread => 1,
            Self::Request(_) | Self::LongFat | Self::LinkBulk(_) | Self::LinkBoth(_) | Self::LinkLoad(..) => 3,
            _ => usize::MAX,
        }
    }

    /// How long one measurement takes, where it goes by time.
    pub(crate) const fn time(self, quick: bool) -> Duration {
        let millis = match self {
            Self::LongFat => 4000,
            Self::Request(_) => 2100,
            Self::LinkBulk(_) | Self::LinkBoth(_) => 1500,
            Self::LinkLoad(..) => 1500,
            Self::Bulk(_) | Self::Both => 1000,
            Self::Latency | Self::OneCpu => 800,
            Self::Churn | Self::Unread => 600,
            Self::Setup | Self::StreamMemory | Self::ConnectionMemory | Self::RoundTrips => 300,
        };
        Duration::from_millis(if quick { millis / 3 } else { millis })
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALL.iter().find(|(_, metric)| metric == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || ALL.map(|(name, _)| name).join(", ");
        let found = ALL.iter().find(|(known, _)| *known == name).map(|(_, metric)| *metric);
        found.ok_or_else(|| format!("the metrics are {}", known()))
    }
}
