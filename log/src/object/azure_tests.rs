// SPDX-License-Identifier: Apache-2.0
//! A real server of Azure's blobs.

use std::sync::Arc;

use dovetail_testkit::{AZURE_KEYS, AzureServer, BUCKET};
use futures::future::join_all;
use object_store::ObjectStore;

use super::{
    Environment, Operation, Purpose, RequestOutcome, StoreError, StoreOption, StoreRequests,
    StoreUrl, Usage, check_store, conformance, open_store,
};
use crate::catalog::tests::create;
use crate::catalog::{Catalog, tests::clock};

struct Way {
    url: StoreUrl,
    store: Arc<dyn ObjectStore>,
    requests: Arc<StoreRequests>,
}

fn open(server: &AzureServer, container: &str, prefix: &str, environment: &Environment) -> Way {
    let url: StoreUrl = format!("az://{container}/{prefix}").parse().unwrap();
    let options = [
        format!("endpoint={}", server.endpoint()),
        "allow_http=true".to_owned(),
    ];
    let options = options.map(|option| option.parse::<StoreOption>().unwrap());
    let (io, requests) = (tokio::runtime::Handle::current(), Arc::default());
    let store = open_store(&url, &options, environment, &io, Usage::Writing, &requests);
    Way {
        store: store.unwrap(),
        url,
        requests,
    }
}

fn keys() -> Environment {
    AZURE_KEYS.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_azure_server_conforms() {
    let server = AzureServer::start();
    for prefix in ["some/where", ""] {
        let way = open(&server, BUCKET, prefix, &keys());
        check_store(&way.url, &way.store).await.unwrap();
        conformance::all(&way.store).await;
    }
    // Connections of their own, as those of several processes.
    let ways = [(); 4].map(|()| open(&server, BUCKET, "x", &keys()).store);
    conformance::one_winner("race", ways.each_ref().map(|way| way as &dyn ObjectStore)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_and_a_missing_container_are_said() {
    let server = AzureServer::start();
    let mut wrong = keys();
    wrong.set("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVyMg==");
    for (container, environment, expected) in [
        (BUCKET, wrong, "keys are wrong"),
        ("nowhere", keys(), "there is no such bucket"),
    ] {
        let way = open(&server, container, "x", &environment);
        let error = check_store(&way.url, &way.store).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        let all = format!("{error:?}{error}");
        assert!(!all.contains("aHVudGVyMg"), "{all}");
    }
}

/// Rivals commit to one catalog, and each request is counted as what it was.
#[tokio::test(flavor = "multi_thread")]
async fn rival_commits_of_a_catalog_all_land_and_are_counted() {
    const RIVALS: usize = 4;
    let server = AzureServer::start();
    let way = open(&server, BUCKET, "", &keys());
    let catalogs = (0..RIVALS).map(|_| Catalog::open(Arc::clone(&way.store), clock()));
    let catalogs: Vec<Catalog> = join_all(catalogs)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let names: Vec<String> = (0..RIVALS).map(|rival| format!("s{rival}")).collect();
    let commits = catalogs
        .iter()
        .zip(&names)
        .map(|(catalog, name)| create(catalog, name));
    join_all(commits).await;
    let state = Catalog::open(Arc::clone(&way.store), clock())
        .await
        .unwrap()
        .state();
    let mut found: Vec<String> = state.live_streams().map(|s| s.def.name.clone()).collect();
    found.sort();
    assert_eq!(found, names);
    let count = |outcome| {
        let kinds = way.requests.read().kinds;
        let puts = kinds.iter().filter(|(kind, _)| {
            let asked = (kind.operation, kind.purpose, kind.outcome);
            asked == (Operation::PutIfAbsent, Purpose::Catalog, outcome)
        });
        puts.map(|(_, count)| count.requests).sum::<u64>()
    };
    assert_eq!(count(RequestOutcome::Done), RIVALS as u64);
    assert_eq!(count(RequestOutcome::Failed), 0);
}

#[tokio::test]
async fn a_store_of_no_account_says_how_to_name_one() {
    let url: StoreUrl = "az://events/x".parse().unwrap();
    let (io, requests) = (tokio::runtime::Handle::current(), Arc::default());
    let nothing = Environment::default();
    let opened = open_store(&url, &[], &nothing, &io, Usage::Writing, &requests);
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("--store-option account="), "{error}");
}
