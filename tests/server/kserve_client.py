"""Asks a server by KServe's own Python client; runs in an environment of its own (pip install kserve).

The picture's base64 text comes on standard input; the address and the token are the arguments.
"""

import asyncio
import json
import sys

from kserve import InferenceRESTClient, RESTConfig


async def main(url, token, text):
    client = InferenceRESTClient(RESTConfig(protocol="v1", timeout=60, retries=1))
    headers = {"Authorization": f"Bearer {token}"}
    body = {"instances": [{"data": text, "target": "cup"}]}
    predicted = await client.infer(url, data=body, model_name="imagenet", headers=headers)
    explained = await client.explain(url, data=body, model_name="imagenet", headers=headers)
    print(json.dumps({"predict": predicted, "explain": explained}))


asyncio.run(main(sys.argv[1], sys.argv[2], sys.stdin.read()))
