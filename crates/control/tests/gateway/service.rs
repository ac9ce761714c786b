//! States of an account: what each refuses, in the words of each product, and the actions about the service itself.

use control::state::accounts::AccountStatus;

use super::*;

/// Version, action and parameters, and whether it changes something.
type Call<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], bool);

#[tokio::test]
async fn state_refuses_what_its_page_says() {
    let rig = Rig::with("cdn-2024", &[("action_qps", 100_000)], 0, |_| ()).await;
    let path = [("ObjectPath", "http://a.com/1")];
    let domain = [("DomainName", "a.com")];
    let sources = r#"[{"content":"127.0.0.1","type":"ipaddr"}]"#;
    let new = [("DomainName", "c.com"), ("CdnType", "web"), ("Sources", sources), ("Scope", "global")];
    let calls: [Call<'_>; 12] = [
        (CDN, "PushObjectCache", &path, true),
        (OLD, "PushObjectCache", &path, true),
        (CDN, "RefreshObjectCaches", &path, true),
        (CDN, "AddCdnDomain", &new, true),
        (CDN, "StopCdnDomain", &domain, true),
        (VOD, "PreloadVodObjectCaches", &path, true),
        (VOD, "RefreshVodObjectCaches", &path, true),
        (CDN, "DescribeRefreshTasks", &[], false),
        (CDN, "DescribeRefreshQuota", &[], false),
        (CDN, "DescribeCdnDomainDetail", &domain, false),
        (VOD, "DescribeVodRefreshQuota", &[], false),
        (VOD, "DescribeVodUserDomains", &[], false),
    ];
    type Words = (u16, &'static str, &'static str);
    let not_opened: [Words; 2] = [
        (403, "OperationDenied", "Your account does not open CDN service yet."),
        (403, "OperationDenied", "Your account does not open VOD service yet."),
    ];
    let suspended: [Words; 2] = [
        (403, "OperationDenied", "Your CDN service is suspended."),
        (403, "OperationDenied.Suspended", "Your VOD service is suspended."),
    ];
    let overdue: [Words; 2] = [(400, "InsufficientBalance", "Your account does not have enough balance."); 2];
    // State; what changes are refused with, what looks are; the three actions about the service.
    let hasnt = (403, "OperationDenied", "Your account does not open CDN service yet");
    let has = (400, "CdnService.HasOpened", "Your CDN service has opened.");
    let states = [
        (AccountStatus::Suspended, Some(suspended), None, Ok("security"), has, [true, false, false, false]),
        (AccountStatus::Overdue, Some(overdue), None, Ok("financial"), overdue[0], [true, true, true, true]),
        (AccountStatus::NotOpened, Some(not_opened), Some(not_opened), Err(hasnt), has, [false; 4]),
    ];
    let open = [("InternetChargeType", "PayByBandwidth")];
    for (status, changes, looks, described, opening, standing) in states {
        rig.operator.set_account_status("me", status).await.unwrap();
        let flags = ["Enabled", "InDebt", "InDebtOverdue", "OnService"];
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let told = rig.ask(CDN, "DescribeUserCdnStatus", &[]).await.json();
            if flags.map(|name| told[name].as_bool()) == standing.map(Some) {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{status:?}: {told}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for (version, action, params, changing) in calls {
            let answer = rig.ask(version, action, params).await;
            match if changing { changes } else { looks } {
                Some(words) => {
                    let (status, code, message) = words[usize::from(version == VOD)];
                    assert_eq!(answer.words(), (status, code.to_owned(), message.to_owned()), "{action}: {answer:?}");
                }
                None => assert_eq!(answer.status, 200, "{status:?} {action}: {answer:?}"),
            }
        }
        let service = rig.ask(CDN, "DescribeCdnService", &[]).await;
        match described {
            Ok(reason) => {
                let locks = &service.json()["OperationLocks"]["LockReason"];
                assert_eq!(locks[0]["LockReason"], reason, "{status:?}: {service:?}");
            }
            Err((status, code, message)) => assert_eq!(service.words(), (status, code.to_owned(), message.to_owned())),
        }
        if status != AccountStatus::NotOpened {
            let answer = rig.ask(CDN, "OpenCdnService", &open).await;
            assert_eq!(answer.words(), (opening.0, opening.1.to_owned(), opening.2.to_owned()), "{status:?}");
        }
    }

    // It is not opened: it can be, once, and then does everything at once.
    let answer = rig.ask(CDN, "OpenCdnService", &[("InternetChargeType", "PayByNothing")]).await;
    let text = "The specified value of parameter InternetChargeType is not valid.";
    assert_refused(&answer, 400, "InvalidInternetChargeType.ValueNotSupported", text);
    assert_refused(&rig.ask(CDN, "OpenCdnService", &[]).await, 400, "MissingParameter", "");
    rig.clock.advance(Duration::from_secs(3_600));
    assert_eq!(rig.ask(CDN, "OpenCdnService", &open).await.status, 200);
    assert_eq!(rig.ask(CDN, "PushObjectCache", &path).await.status, 200, "at once");
    let answer = rig.ask(CDN, "OpenCdnService", &open).await;
    assert_refused(&answer, 400, "CdnService.HasOpened", "Your CDN service has opened.");
    let service = rig.ask(CDN, "DescribeCdnService", &[]).await.json();
    assert_eq!(service["InternetChargeType"], "PayByBandwidth");
    assert_eq!(service["OpeningTime"], timestamp(rig.clock.now()).as_str());
    assert_eq!(service["OperationLocks"]["LockReason"].as_array().unwrap().len(), 0);
}
