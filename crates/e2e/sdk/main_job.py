"""The main job through one of the vendor's own SDKs: submit, poll to the end, read the quota.

usage: main_job.py SDK VERB ARG...      SDK is tea-cdn, tea-vod, legacy-cdn or legacy-vod
  push URL...        -> {"ids": "...", "tasks": [...]}   waits until no task is Refreshing
  submit URL...      -> {"ids": "..."}                   returns at once
  wait IDS           -> {"tasks": [...]}
  refresh TYPE URL...-> {"ids": "...", "tasks": [...]}
  refresh-tag DOMAIN TAGS [force] -> {"ids": "...", "tasks": [...]}   tea-cdn alone has it
  quota              -> the quota's fields

Prints one JSON object. Errors of the API are printed as {"error": {"code", "status", "message"}}.
"""

import json
import os
import sys
import time

ENDPOINT = os.environ["ENDPOINT"]
KEY_ID = os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"]
KEY_SECRET = os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"]
PATIENCE_SECONDS = 120


class Tea:
    """The current generation (signature V3)."""

    def __init__(self, product):
        from alibabacloud_tea_openapi.models import Config

        config = Config(access_key_id=KEY_ID, access_key_secret=KEY_SECRET, endpoint=ENDPOINT, protocol="HTTP")
        if product == "cdn":
            from alibabacloud_cdn20180510 import models
            from alibabacloud_cdn20180510.client import Client
        else:
            from alibabacloud_vod20170321 import models
            from alibabacloud_vod20170321.client import Client
        self.product, self.models, self.client = product, models, Client(config)

    def push(self, urls):
        path = "\n".join(urls)
        if self.product == "cdn":
            reply = self.client.push_object_cache(self.models.PushObjectCacheRequest(object_path=path))
            return reply.body.push_task_id
        reply = self.client.preload_vod_object_caches(self.models.PreloadVodObjectCachesRequest(object_path=path))
        return reply.body.preload_task_id

    def refresh(self, kind, urls):
        path = "\n".join(urls)
        if self.product == "cdn":
            request = self.models.RefreshObjectCachesRequest(object_path=path, object_type=kind)
            return self.client.refresh_object_caches(request).body.refresh_task_id
        request = self.models.RefreshVodObjectCachesRequest(object_path=path, object_type=kind)
        return self.client.refresh_vod_object_caches(request).body.refresh_task_id

    def refresh_tag(self, domain, tags, force):
        request = self.models.RefreshObjectCacheByCacheTagRequest(domain_name=domain, cache_tag=tags, force=force)
        return self.client.refresh_object_cache_by_cache_tag(request).body.refresh_task_id

    def tasks(self, ids, page):
        if self.product == "cdn":
            request = self.models.DescribeRefreshTasksRequest(task_id=ids, page_size=100 if self.product == "cdn" else 50, page_number=page)
            body = self.client.describe_refresh_tasks(request).body
            rows = body.tasks.cdntask
        else:
            request = self.models.DescribeVodRefreshTasksRequest(task_id=ids, page_size=50, page_number=page)
            body = self.client.describe_vod_refresh_tasks(request).body
            rows = body.tasks.task
        return body.total_count, [row.to_map() for row in rows]

    def quota(self):
        if self.product == "cdn":
            body = self.client.describe_refresh_quota(self.models.DescribeRefreshQuotaRequest()).body
        else:
            body = self.client.describe_vod_refresh_quota(self.models.DescribeVodRefreshQuotaRequest()).body
        return body.to_map()


class Legacy:
    """The former generation (signature V1)."""

    def __init__(self, product):
        from aliyunsdkcore.client import AcsClient

        self.product = product
        self.client = AcsClient(KEY_ID, KEY_SECRET, "cn-hangzhou")

    def call(self, action, **params):
        if self.product == "cdn":
            module = __import__(f"aliyunsdkcdn.request.v20180510.{action}Request", fromlist=["x"])
        else:
            module = __import__(f"aliyunsdkvod.request.v20170321.{action}Request", fromlist=["x"])
        request = getattr(module, f"{action}Request")()
        request.set_endpoint(ENDPOINT)
        request.set_protocol_type("http")
        request.set_accept_format("JSON")
        for name, value in params.items():
            getattr(request, f"set_{name}")(value)
        return json.loads(self.client.do_action_with_exception(request))

    def push(self, urls):
        path = "\r\n".join(urls)
        if self.product == "cdn":
            return self.call("PushObjectCache", ObjectPath=path)["PushTaskId"]
        return self.call("PreloadVodObjectCaches", ObjectPath=path)["PreloadTaskId"]

    def refresh(self, kind, urls):
        action = "RefreshObjectCaches" if self.product == "cdn" else "RefreshVodObjectCaches"
        return self.call(action, ObjectPath="\n".join(urls) + "\n", ObjectType=kind)["RefreshTaskId"]

    def tasks(self, ids, page):
        if self.product == "cdn":
            reply = self.call("DescribeRefreshTasks", TaskId=ids, PageSize=100, PageNumber=page)
            return reply["TotalCount"], reply["Tasks"]["CDNTask"]
        reply = self.call("DescribeVodRefreshTasks", TaskId=ids, PageSize=50, PageNumber=page)
        return reply["TotalCount"], reply["Tasks"]["Task"]

    def quota(self):
        return self.call("DescribeRefreshQuota" if self.product == "cdn" else "DescribeVodRefreshQuota")


def wait(sdk, ids):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        rows, page = [], 1
        while True:
            total, part = sdk.tasks(ids, page)
            rows += part
            page += 1
            if len(rows) >= total or not part:
                break
        if rows and all(row["Status"] != "Refreshing" for row in rows):
            return rows
        if time.monotonic() > deadline:
            raise TimeoutError(json.dumps(rows[:5]))
        time.sleep(0.5)  # DescribeRefreshTasks may be called ten times a second


def main():
    generation, product = sys.argv[1].split("-")
    sdk = (Tea if generation == "tea" else Legacy)(product)
    verb, args = sys.argv[2], sys.argv[3:]
    if verb == "push":
        ids = sdk.push(args)
        return {"ids": ids, "tasks": wait(sdk, ids)}
    if verb == "submit":
        return {"ids": sdk.push(args)}
    if verb == "wait":
        return {"tasks": wait(sdk, args[0])}
    if verb == "refresh":
        ids = sdk.refresh(args[0], args[1:])
        return {"ids": ids, "tasks": wait(sdk, ids)}
    if verb == "refresh-tag":
        ids = sdk.refresh_tag(args[0], args[1], args[2:] == ["force"])
        return {"ids": ids, "tasks": wait(sdk, ids)}
    if verb == "quota":
        return sdk.quota()
    raise SystemExit(f"no such verb: {verb}")


def error_of(error):
    """The code, status and message of either generation's error, or None for what is not the API's."""
    if hasattr(error, "error_code"):  # legacy ServerException
        return {"code": error.error_code, "status": getattr(error, "http_status", None), "message": error.message}
    if hasattr(error, "code") and hasattr(error, "message"):  # Tea
        status = getattr(error, "statusCode", None) or getattr(error, "status_code", None)
        return {"code": error.code, "status": status, "message": error.message}
    return None


try:
    print(json.dumps(main()))
except Exception as error:
    described = error_of(error)
    if described is None:
        raise
    print(json.dumps({"error": described}))
