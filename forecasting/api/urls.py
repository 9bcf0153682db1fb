from __future__ import annotations

from rest_framework.routers import SimpleRouter

from forecasting.api import views

router = SimpleRouter()
router.register("generations", views.GenerationViewSet)
router.register("profiles", views.ProfileViewSet)

urlpatterns = router.urls
