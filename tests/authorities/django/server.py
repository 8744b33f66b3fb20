"""Django OAuth Toolkit with rotating refresh tokens and reuse protection, and what the suite needs to set scenes and
to count. Prints its address once it listens, on a loopback port that is free.

    server.py DATABASE [GRACE]        a file that does not exist yet; for how many seconds a spent refresh token is good

    POST /_test/clients               a client of a case's own; answers its identifier
    GET  /_test/clients/ID            its token calls so far
    POST /_test/clients/ID/expire     its access tokens have expired

The resource is /me; the toolkit refuses with 403.
"""

import base64
import collections
import sys
import threading

from django.conf import settings

DATABASE = sys.argv[1]
GRACE = int(sys.argv[2]) if len(sys.argv) > 2 else 0
SECRET = "not-a-secret"
PASSWORD = "not-a-password"

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATABASE,
            # A transaction that begins as a reader cannot wait for a writer.
            "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
    OAUTH2_PROVIDER={
        "ACCESS_TOKEN_EXPIRE_SECONDS": 3600,
        "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": GRACE,
        "REFRESH_TOKEN_REUSE_PROTECTION": True,
        "ROTATE_REFRESH_TOKEN": True,
    },
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=SECRET,
    USE_TZ=True,
)

import django  # noqa: E402

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils import timezone  # noqa: E402
from oauth2_provider.models import AccessToken, Application  # noqa: E402
from oauth2_provider.views import ProtectedResourceView, RevokeTokenView, TokenView  # noqa: E402

counts = collections.defaultdict(lambda: {"logins": 0, "refreshes": 0, "refused": 0})
counting = threading.Lock()


class CountedTokenView(TokenView):
    def post(self, request, *args, **kwargs):
        answer = super().post(request, *args, **kwargs)
        client_id = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).split(b":")[0].decode()
        granted = "refreshes" if request.POST["grant_type"] == "refresh_token" else "logins"
        with counting:
            counts[client_id][granted if answer.status_code == 200 else "refused"] += 1
        return answer


class Me(ProtectedResourceView):
    def get(self, request):
        return JsonResponse({"sub": request.resource_owner.username})


def add_client(request):
    client = Application.objects.create(
        authorization_grant_type=Application.GRANT_PASSWORD,
        client_secret=SECRET,
        client_type=Application.CLIENT_CONFIDENTIAL,
        hash_client_secret=False,
    )
    return JsonResponse(client.client_id, safe=False)


def client(request, client_id):
    return JsonResponse(counts[client_id])


def expire(request, client_id):
    AccessToken.objects.filter(application__client_id=client_id).update(expires=timezone.now())
    return client(request, client_id)


urlpatterns = [
    path("token", CountedTokenView.as_view()),
    path("revoke", RevokeTokenView.as_view()),
    path("me", Me.as_view()),
    path("_test/clients", add_client),
    path("_test/clients/<client_id>", client),
    path("_test/clients/<client_id>/expire", expire),
]


class Quiet(WSGIRequestHandler):
    def log_message(self, format, *args):
        """Requests that are refused are what the suite is about."""


class Server(ThreadedWSGIServer):
    # A burst of new connections must not wait for the system to try again.
    request_queue_size = 1024


call_command("migrate", verbosity=0)
User.objects.create_user("alice", password=PASSWORD)
server = Server(("127.0.0.1", 0), Quiet)
server.set_app(get_wsgi_application())
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
