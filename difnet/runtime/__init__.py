"""Who runs adapt, exchange and combine, and where?"""
