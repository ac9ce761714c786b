"""What the vendor's own Refresh.py does, in both its versions, with exactly its calls and habits.

usage: refresh_script.py 2021|2025 -r FILE -t clear|push [-a domestic|overseas] [-o File|Directory]

  2021: the former SDK; checks the quota, submits 100 lines a call, each escaped once more and ended by a line feed, waits a
        second between calls, asks every 5 seconds for about 30 by DescribeRefreshTasks with int(id); an empty list is done.
  2025: the current SDK; the same, 20 lines a call, asks every 10 seconds for up to 50.

Pauses are a tenth of the script's. Prints {"batches": n, "quota": left, "done": [...], "log": [...]}: for each batch whether its
tasks were all Complete, or why the script would have skipped the question.
"""

import argparse
import json
import os
import re
import time
import urllib.parse

ENDPOINT = os.environ["ENDPOINT"]
KEY_ID = os.environ["ALIBABA_CLOUD_ACCESS_KEY_ID"]
KEY_SECRET = os.environ["ALIBABA_CLOUD_ACCESS_KEY_SECRET"]
PACE = 0.1  # of the script's seconds


class Script2021:
    LINES, EVERY, TIMES = 100, 5, 6

    def __init__(self):
        from aliyunsdkcore.client import AcsClient

        self.client = AcsClient(KEY_ID, KEY_SECRET, "cn-zhangzhou")  # so spelt there

    def call(self, action, **params):
        module = __import__(f"aliyunsdkcdn.request.v20180510.{action}Request", fromlist=["x"])
        request = getattr(module, f"{action}Request")()
        request.set_endpoint(ENDPOINT)
        request.set_protocol_type("http")
        request.set_accept_format("json")
        for name, value in params.items():
            if value:
                getattr(request, f"set_{name}")(value)
        return json.loads(self.client.do_action_with_exception(request))

    def quota(self):
        return self.call("DescribeRefreshQuota")

    def encode(self, line):
        return re.sub(r"[^A-Za-z0-9:/.\-_*]+", lambda found: urllib.parse.quote_plus(found.group()), line)

    def submit(self, lines, args):
        path = "".join(self.encode(line) + "\n" for line in lines)
        if args.t == "push":
            return self.call("PushObjectCache", ObjectPath=path, Area=args.a)["PushTaskId"]
        return self.call("RefreshObjectCaches", ObjectPath=path, ObjectType=args.o)["RefreshTaskId"]

    def states(self, task):
        return [task["Status"] for task in self.call("DescribeRefreshTasks", TaskId=int(task))["Tasks"]["CDNTask"]]

    def pause(self):
        time.sleep(1 * PACE)


class Script2025:
    LINES, EVERY, TIMES = 20, 10, 5

    def __init__(self):
        from alibabacloud_cdn20180510 import models
        from alibabacloud_cdn20180510.client import Client
        from alibabacloud_tea_openapi.models import Config

        self.models = models
        self.client = Client(Config(access_key_id=KEY_ID, access_key_secret=KEY_SECRET, endpoint=ENDPOINT, protocol="HTTP"))

    def quota(self):
        return self.client.describe_refresh_quota(self.models.DescribeRefreshQuotaRequest()).body.to_map()

    def submit(self, lines, args):
        path = "\n".join(lines)
        if args.t == "push":
            return self.client.push_object_cache(self.models.PushObjectCacheRequest(object_path=path, area=args.a)).body.push_task_id
        request = self.models.RefreshObjectCachesRequest(object_path=path, object_type=args.o)
        return self.client.refresh_object_caches(request).body.refresh_task_id

    def states(self, task):
        body = self.client.describe_refresh_tasks(self.models.DescribeRefreshTasksRequest(task_id=task)).body
        return [row.status for row in body.tasks.cdntask]

    def pause(self):
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("version", choices=["2021", "2025"])
    parser.add_argument("-r", required=True)
    parser.add_argument("-t", choices=["clear", "push"], required=True)
    parser.add_argument("-a", choices=["domestic", "overseas"])
    parser.add_argument("-o", choices=["File", "Directory"])
    args = parser.parse_args()
    script = Script2021() if args.version == "2021" else Script2025()

    with open(args.r) as file:
        lines = [line.strip() for line in file if line.strip()]
    assert all(line.startswith(("http://", "https://")) for line in lines), "the script takes no others"

    fields = script.quota()
    name = "PreloadRemain" if args.t == "push" else "DirRemain" if args.o == "Directory" else "UrlRemain"
    left = int(fields[name])
    if left < len(lines):
        return {"batches": 0, "quota": left, "done": [], "log": [f"{name} {left} is fewer than {len(lines)}"]}

    batches = [lines[at : at + script.LINES] for at in range(0, len(lines), script.LINES)]
    done, log = [], []
    for batch in batches:
        task = script.submit(batch, args)
        complete = False
        try:
            for _ in range(script.TIMES):
                time.sleep(script.EVERY * PACE)
                complete = all(state == "Complete" for state in script.states(task))
                if complete:
                    break
        except ValueError as error:  # a list of ids is no int: the script logs it and goes on
            log.append(f"{task}: {error}")
        done.append(complete)
        script.pause()
    return {"batches": len(batches), "quota": left, "done": done, "log": log}


print(json.dumps(main()))
