from __future__ import annotations

from rest_framework.routers import SimpleRouter

from migration.api import views

router = SimpleRouter()
router.register("plans", views.PlanViewSet)
router.register("recommendations", views.RecommendationViewSet)
router.register("shadows", views.ShadowViewSet)
router.register("transitions", views.TransitionViewSet)

urlpatterns = router.urls
