"""How do runs become pictures, tables and pages?"""
